from pathlib import Path

import ncnn
import numpy as np
import pytest
import torch

from sr_core.backbones.prior import (
    FLOAT16_TAG,
    NEGATIVE_SLOPE,
    Prior,
    load_ncnn,
    ncnn_pair,
    read_graph,
)
from sr_core.errors import WeightsError
from sr_core.images import read_image

NUM_CONVOLUTIONS = 351


def tiny_prior() -> Prior:
    return Prior(num_blocks=1, channels=3, growth=2)


def graph_of(prior: Prior) -> str:
    """Return an ncnn graph with the convolutions of `prior`."""
    lines = ["7767517", "1 1"]
    for k, conv in enumerate(prior.convolutions()):
        lines.append(f"Convolution conv{k} 1 1 a{k} b{k} 0={conv.out_channels} 1=3 6={conv.weight.numel()}")
    return "\n".join(lines)


def packed(prior: Prior, *, half: bool) -> bytes:
    """Return the weights of `prior` as ncnn stores them."""
    parts = []
    for conv in prior.convolutions():
        weights = conv.weight.detach().numpy().astype("<f2" if half else "<f4").tobytes()
        tag = np.uint32(FLOAT16_TAG if half else 0).tobytes()
        bias = conv.bias.detach().numpy().astype("<f4").tobytes()
        parts += [tag, weights + b"\0" * (-len(weights) % 4), bias]
    return b"".join(parts)


def test_the_network_equals_the_ncnn_package_on_a_photo(photos: Path, prior: Prior) -> None:
    crop = read_image(photos / "eval" / "472_bluebird.png").pixels[..., 200:248, 180:244].contiguous()
    graph, weights = ncnn_pair()
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = 1
    assert net.load_param(str(graph)) == 0
    assert net.load_model(str(weights)) == 0
    extractor = net.create_extractor()
    extractor.input("data", ncnn.Mat(np.ascontiguousarray(crop[0].numpy())).clone())
    theirs = torch.from_numpy(np.array(extractor.extract("output")[1]))
    with torch.inference_mode():
        ours = prior(crop).image[0]
    assert ours.shape == theirs.shape == (3, 192, 256)
    assert float(ours.std()) > 0.02
    assert float((ours - theirs).abs().max()) < 1e-4


def test_the_packaged_graph_is_the_expected_network() -> None:
    records = read_graph(ncnn_pair()[0].read_text(encoding="ascii"))
    assert len(records) == NUM_CONVOLUTIONS == len(list(Prior().convolutions()))
    assert {record.kernel for record in records} == {3}


def test_every_byte_of_the_packaged_weights_is_consumed() -> None:
    graph, weights = ncnn_pair()
    text, data = graph.read_text(encoding="ascii"), weights.read_bytes()
    load_ncnn(Prior(), text, data)
    with pytest.raises(WeightsError, match=f"must end at byte {len(data)}, got {len(data) + 1}"):
        load_ncnn(Prior(), text, data + b"\0")
    with pytest.raises(WeightsError, match="more bytes at"):
        load_ncnn(Prior(), text, data[:-1])


@pytest.mark.parametrize("half", [False, True])
def test_weights_and_biases_land_in_their_own_convolutions(half: bool) -> None:
    torch.manual_seed(0)
    source, target = tiny_prior(), tiny_prior()
    load_ncnn(target, graph_of(source), packed(source, half=half))
    for ours, theirs in zip(target.convolutions(), source.convolutions(), strict=True):
        stored = theirs.weight.half().float() if half else theirs.weight
        assert torch.equal(ours.weight, stored)
        assert torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 3, 4, 7, 60])
def test_a_missing_end_is_refused(half: bool, cut: int) -> None:
    source = tiny_prior()
    with pytest.raises(WeightsError, match="more bytes at"):
        load_ncnn(tiny_prior(), graph_of(source), packed(source, half=half)[:-cut])


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 4, b"more"])
def test_bytes_left_over_are_refused(tail: bytes) -> None:
    source = tiny_prior()
    with pytest.raises(WeightsError, match="must end at byte"):
        load_ncnn(tiny_prior(), graph_of(source), packed(source, half=False) + tail)


def test_a_wrong_tag_is_refused_with_the_layers_name() -> None:
    source = tiny_prior()
    data = bytearray(packed(source, half=True))
    data[0] ^= 1
    with pytest.raises(WeightsError, match="conv0: the weight tag must be 0x01306B47 or 0, got 0x01306B46"):
        load_ncnn(tiny_prior(), graph_of(source), bytes(data))


def test_the_graph_of_another_network_is_refused() -> None:
    source = tiny_prior()
    data = packed(source, half=False)
    with pytest.raises(WeightsError, match="must hold 351 convolutions, got 21"):
        load_ncnn(Prior(), graph_of(source), data)
    other = graph_of(source).replace("0=3 1=3", "0=5 1=3", 1)
    with pytest.raises(WeightsError, match="conv0: expected 3 outputs"):
        load_ncnn(tiny_prior(), other, data)


def test_the_slope_of_the_activations_is_the_graphs_own() -> None:
    text = ncnn_pair()[0].read_text(encoding="ascii")
    slopes = {line.split("-23310=1,")[1].split()[0] for line in text.splitlines() if "-23310=1," in line}
    assert {float(slope) for slope in slopes} == {NEGATIVE_SLOPE}


def test_the_trunk_has_the_photos_size_and_the_image_four_times_that(prior: Prior) -> None:
    photo = torch.rand(2, 3, 5, 9, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        trunk, image = prior(photo)
        alone = prior(photo[1:]).image
    assert trunk.shape == (2, 64, 5, 9)
    assert image.shape == (2, 3, 20, 36)
    torch.testing.assert_close(image[1:], alone, atol=1e-5, rtol=0)


def test_the_prior_is_frozen(prior: Prior) -> None:
    assert not any(p.requires_grad for p in prior.parameters())
    assert not prior.training
