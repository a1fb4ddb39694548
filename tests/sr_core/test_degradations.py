import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray

from sr_core.blur_kernels import gaussian_kernel
from sr_core.degradation_draws import draw_kernel
from sr_core.degradations import (
    PRESETS,
    DegradationPreset,
    StageParameters,
    degrade,
    degrade_and_tell,
    target,
    usm_sharpen,
)
from sr_core.errors import ConfigError, InputError
from sr_core.resampling import resize

GENTLE = StageParameters(
    resize_prob=(0.0, 0.0, 1.0),
    noise_range=(0.0, 0.0),
    poisson_scale_range=(0.0, 0.0),
    jpeg_range=None,
    blur_sigma_range=(0.1, 0.1),
    kernel_probs=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    sinc_prob=0.0,
)
"""A stage that changes nothing: every strength at its lowest."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texture(batch: int = 1, height: int = 64, width: int = 64, seed: int = 0) -> torch.Tensor:
    """Return smooth random images with many values in [0, 1]."""
    coarse = torch.rand(batch, 3, height // 4, width // 4, generator=generator(seed))
    return resize(coarse, height, width).clamp(0, 1)


def without_noise(stage: StageParameters | None) -> StageParameters | None:
    return stage and replace(stage, noise_range=(0.0, 0.0), poisson_scale_range=(0.0, 0.0))


def as_8_bit(image: torch.Tensor) -> torch.Tensor:
    return (image.clamp(0, 1) * 255).add(0.5).floor().to(torch.uint8)


def pillow_jpeg(lq: torch.Tensor, quality: int) -> torch.Tensor:
    stream = io.BytesIO()
    PIL.Image.fromarray(as_8_bit(lq).permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=quality)
    return torch.from_numpy(np.array(PIL.Image.open(stream))).permute(2, 0, 1)


@pytest.mark.parametrize("name", PRESETS)
def test_the_same_seed_gives_the_same_pixels_and_no_global_generator_moves(name):
    hq = texture(3)
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["pos"]
    first, second = (degrade(hq, name, generator=generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state(legacy=False)["state"]["pos"]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "bicubic"])
def test_another_seed_gives_other_pixels(name):
    hq = texture()
    assert not torch.equal(degrade(hq, name, generator=generator(1)), degrade(hq, name, generator=generator(2)))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 4, 8), (3, 64, 96), (5, 52, 12)])
def test_every_preset_gives_a_quarter_of_the_side_on_the_8_bit_grid(name, batch, height, width):
    hq = texture(batch, height, width)
    for seed in range(4):
        lq = degrade(hq, name, generator=generator(seed))
        assert lq.shape == (batch, 3, height // 4, width // 4)
        assert lq.dtype == torch.float32
        assert lq.min() >= 0
        assert lq.max() <= 1
        assert torch.equal(lq, as_8_bit(lq).float() / 255)


@pytest.mark.parametrize("name", PRESETS)
def test_the_hq_itself_is_left_as_it_was(name):
    hq = texture(2)
    copy = hq.clone()
    degrade(hq, name, generator=generator())
    assert torch.equal(hq, copy)


def test_the_bicubic_preset_is_the_antialiased_reduction_rounded_to_8_bits():
    hq = texture(2, 64, 96)
    lq = degrade(hq, "bicubic", generator=generator())
    assert torch.equal(as_8_bit(lq), as_8_bit(resize(hq, 16, 24)))


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "bicubic"])
def test_without_noise_a_flat_image_keeps_its_level(name, level):
    preset = PRESETS[name]
    preset = replace(preset, first=without_noise(preset.first), second=without_noise(preset.second))
    hq = torch.full((2, 3, 64, 64), level)
    for seed in range(3):
        lq = degrade(hq, preset, generator=generator(seed))
        assert (lq.mean(dim=(1, 2, 3)) - level).abs().max() < 4 / 255  # half a JPEG step, twice


def test_a_stage_with_every_strength_at_zero_only_reduces():
    hq = texture(2)
    preset = DegradationPreset(source="none.", first=GENTLE)
    reductions = [
        torch.nn.functional.interpolate(hq, size=(16, 16), mode=mode) for mode in ("area", "bilinear", "bicubic")
    ]
    seen = set()
    for seed in range(20):
        lq = degrade(hq, preset, generator=generator(seed))
        distances = [(lq - reduction.clamp(0, 1)).abs().max().item() for reduction in reductions]
        assert min(distances) < 0.6 / 255
        seen.add(distances.index(min(distances)))
    assert seen == {0, 1, 2}


def test_gaussian_noise_grows_with_its_range_and_stays_within_what_a_reduction_leaves_of_it():
    hq = torch.full((1, 3, 128, 128), 0.5)
    previous = 0.0
    for strength in (4.0, 16.0, 64.0):
        limits = (strength, strength)
        stage = replace(GENTLE, gaussian_noise_prob=1.0, noise_range=limits, gray_noise_prob=0.0)
        lq = degrade(hq, DegradationPreset(source="noise.", first=stage), generator=generator(3))
        spread = lq.std(dim=(1, 2, 3)).item() * 255
        # Averaging 4 x 4 pixels leaves a quarter; picking pixels leaves everything.
        assert 0.9 * strength / 4 < spread < 1.1 * strength
        assert spread > previous
        previous = spread


@pytest.mark.parametrize("gaussian", [0.0, 1.0])
def test_gray_noise_is_the_same_in_all_channels_and_colour_noise_is_not(gaussian):
    hq = texture(2).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    for gray in (0.0, 1.0):
        stage = replace(
            GENTLE,
            gaussian_noise_prob=gaussian,
            gray_noise_prob=gray,
            noise_range=(20.0, 20.0),
            poisson_scale_range=(1.0, 1.0),
        )
        lq = degrade(hq, DegradationPreset(source="noise.", first=stage), generator=generator())
        difference = (lq[:, 0] - lq[:, 1]).abs().max()
        assert (difference < 1.1 / 255) == (gray == 1.0)


def test_poisson_noise_is_stronger_where_the_image_is_brighter():
    hq = texture(1, 128, 128) * 0.1
    hq[..., 64:] += 0.6
    stage = replace(GENTLE, gaussian_noise_prob=0.0, poisson_scale_range=(1.0, 1.0))
    silent = degrade(hq, DegradationPreset(source="none.", first=GENTLE), generator=generator(1))
    noisy = degrade(hq, DegradationPreset(source="noise.", first=stage), generator=generator(1))
    dark, bright = (noisy - silent)[..., :16], (noisy - silent)[..., 16:]
    assert bright.std(dim=(0, 1, 2, 3)) > 1.5 * dark.std(dim=(0, 1, 2, 3)) > 0


def test_jpeg_is_pillows_own_at_qualities_within_the_range_that_differ_within_a_batch():
    hq = texture(1, 128, 128).expand(6, -1, -1, -1)
    preset = replace(PRESETS["bicubic"], clean_jpeg_range=(40.0, 60.0))
    lq = degrade(hq, preset, generator=generator())
    possible = {quality: pillow_jpeg(resize(hq[:1], 32, 32)[0], quality) for quality in range(40, 61)}
    drawn = [{quality for quality in possible if torch.equal(as_8_bit(image), possible[quality])} for image in lq]
    assert all(drawn)
    assert len({min(qualities) for qualities in drawn}) > 1


def test_the_final_jpeg_comes_before_and_after_the_reduction_about_equally_often():
    hq = texture(1, 128, 128)
    preset = DegradationPreset(source="jpeg.", first=GENTLE, final_jpeg_range=(20.0, 20.0))
    afterwards = 0
    for seed in range(40):
        lq = degrade(hq, preset, generator=generator(seed))
        reductions = [
            torch.nn.functional.interpolate(hq, size=(32, 32), mode=mode)[0] for mode in ("area", "bilinear", "bicubic")
        ]
        distances = [
            (as_8_bit(lq[0]).float() - pillow_jpeg(reduction, 20).float()).abs().mean(dim=(0, 1, 2)).item()
            for reduction in reductions
        ]
        afterwards += min(distances) < 0.5
    assert 10 < afterwards < 30


def test_images_of_one_batch_get_different_strengths():
    hq = texture(1).expand(4, -1, -1, -1)
    lq = degrade(hq, "real-esrgan", generator=generator())
    assert len({tuple(image.flatten().tolist()) for image in lq}) == 4


def test_a_chance_of_staying_clean_leaves_about_that_share_only_reduced():
    hq = texture(64, 32, 32)
    noisy = replace(GENTLE, noise_range=(30.0, 30.0), poisson_scale_range=(2.0, 2.0))
    lq = degrade(hq, DegradationPreset(source="half.", first=noisy, clean_prob=0.5), generator=generator())
    clean = (as_8_bit(lq) == as_8_bit(resize(hq, 8, 8))).flatten(1).all(dim=1)
    assert 20 < clean.sum() < 44


@pytest.mark.parametrize("name", ["resshift-1st", "dp2o", "hggt-swinir"])
def test_first_order_presets_have_no_second_stage(name):
    assert PRESETS[name].second is None
    assert PRESETS[name].second_stage_prob == 0


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_the_second_stage_acts_exactly_when_its_chance_says_so(chance):
    hq = texture(2)
    loud = replace(GENTLE, noise_range=(200.0, 200.0), poisson_scale_range=(9.0, 9.0))
    quiet, noisy = (
        degrade(
            hq,
            DegradationPreset(source="two.", first=GENTLE, second=second, second_stage_prob=chance),
            generator=generator(),
        )
        for second in (GENTLE, loud)
    )
    assert torch.equal(quiet, noisy) == (chance == 0)


def test_drawn_kernels_have_the_sizes_of_the_stage():
    stage = replace(GENTLE, kernel_sizes=(3, 7, 11), blur_sigma_range=(3.0, 4.0))
    draws = generator()
    sizes = {int((draw_kernel(stage, draws).kernel[10] > 0).sum()) for _ in range(60)}
    assert sizes == {3, 7, 11}


def test_drawn_sigmas_stay_within_the_range_and_fill_it():
    stage = replace(GENTLE, kernel_sizes=(21,), blur_sigma_range=(1.0, 2.0))
    draws = generator()
    squares = (torch.arange(21) - 10.0).square()
    sigmas = [(draw_kernel(stage, draws).kernel.sum(0) * squares).sum(dim=0).sqrt().item() for _ in range(80)]
    assert 0.99 < min(sigmas) < 1.1
    assert 1.9 < max(sigmas) < 2.01


@pytest.mark.parametrize("kind", range(6))
def test_isotropic_kinds_survive_a_quarter_turn_and_anisotropic_ones_do_not(kind):
    first, second, third, fourth, fifth, sixth = (float(index == kind) for index in range(6))
    chances = (first, second, third, fourth, fifth, sixth)
    kernel = draw_kernel(replace(GENTLE, kernel_probs=chances, blur_sigma_range=(0.5, 3.0)), generator(4)).kernel
    assert torch.allclose(kernel.rot90(), kernel, atol=1e-6) == (kind in (0, 2, 4))


def test_a_shape_exponent_of_one_draws_the_ordinary_gaussian():
    stage = replace(
        GENTLE,
        kernel_probs=(0.0, 0.0, 1.0, 0.0, 0.0, 0.0),
        betag_range=(1.0, 1.0),
        blur_sigma_range=(1.5, 1.5),
        kernel_sizes=(21,),
    )
    torch.testing.assert_close(draw_kernel(stage, generator()).kernel, gaussian_kernel(21, sigma_x=1.5, sigma_y=1.5))


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_only_sinc_kernels_have_negative_lobes(chance):
    stage = StageParameters(sinc_prob=chance)
    draws = generator()
    for _ in range(20):
        assert (draw_kernel(stage, draws).kernel.min() < 0) == (chance == 1)


def test_usm_sharpen_equals_the_same_formula_in_scipy():
    image = texture(1, 40, 64)

    def blurred(planes: NDArray[np.float64]) -> NDArray[np.float64]:
        return scipy.ndimage.gaussian_filter(planes, (0, 0, 8, 8), mode="mirror", radius=(0, 0, 25, 25))

    pixels = image.double().numpy()
    detail = pixels - blurred(pixels)
    mask = blurred((np.abs(detail) * 255 > 10).astype(float))
    expected = mask * np.clip(pixels + 0.5 * detail, 0, 1) + (1 - mask) * pixels
    torch.testing.assert_close(usm_sharpen(image).double(), torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_usm_leaves_faint_detail_alone():
    image = 0.5 + 0.02 * (texture() - 0.5)
    torch.testing.assert_close(usm_sharpen(image), image)


def test_the_lq_of_a_sharpening_preset_is_that_of_the_sharpened_hq():
    hq = texture(2)
    preset = DegradationPreset(source="usm.", first=GENTLE, usm_sharpen_target=True)
    plain = replace(preset, usm_sharpen_target=False)
    lq = degrade(hq, preset, generator=generator())
    assert torch.equal(lq, degrade(usm_sharpen(hq), plain, generator=generator()))
    assert not torch.equal(lq, degrade(hq, plain, generator=generator()))


def test_the_target_is_the_hq_unless_sharpening_is_asked_for():
    hq = texture()
    assert target(hq, "real-esrgan") is hq
    assert torch.equal(target(hq, "real-esrgan", sharpen=True), usm_sharpen(hq))


def test_sharpening_a_target_that_the_publication_does_not_sharpen_is_refused():
    with pytest.raises(ConfigError, match="sharpen must be off"):
        target(texture(), "resshift", sharpen=True)


@pytest.mark.parametrize(("name", "near"), [("realesrgan", "real-esrgan"), ("resshift-2nd", "resshift-1st")])
def test_an_unknown_preset_is_refused_with_near_names(name, near):
    with pytest.raises(ConfigError, match=f"did you mean.*{near}"):
        degrade(texture(), name, generator=generator())


@pytest.mark.parametrize(("height", "width"), [(66, 64), (64, 2)])
def test_sides_that_are_not_multiples_of_four_are_refused(height, width):
    with pytest.raises(InputError, match=f"multiples of 4, got {width} x {height}"):
        degrade(torch.rand(1, 3, height, width, generator=generator()), "bicubic", generator=generator())


RECORDED = {
    ("bicubic", 0): (0.08847743272781372, "1e5e862eaac7ae63d26fc2261baa9380444e601a7ca9949be19d6144343b6c78"),
    ("bicubic", 2): (0.6371143460273743, "1e5e862eaac7ae63d26fc2261baa9380444e601a7ca9949be19d6144343b6c78"),
    ("real-esrgan", 0): (0.5110808610916138, "463f596c79a7b8a39d967f674b5788a3605f6f737aa6b8ab9c8566584d5e88a2"),
    ("real-esrgan", 2): (0.5339741706848145, "b4ada299939399a2957951352e333433a9a59d97919398a09179563f3a404040"),
    ("seesr", 0): (0.34232205152511597, "364346547eaeb7a4a089745243517a925f69625977afbaa38f886a48556a7c89"),
    ("seesr", 2): (0.44855934381484985, "4e5054779eadb19684796c5f687275776d6d6d7b8da9b59a8371665d768b8683"),
    ("stablesr", 0): (0.9805654287338257, "001c46507ebfb795808d9d7231386799635e565077bcb18187a987494f68667f"),
    ("stablesr", 2): (0.5858169198036194, "41334e6f83adbb8f8482796a64696f70656d7b7170abc6997c7e6a556b938f6b"),
    ("resshift", 0): (0.4502714276313782, "574c484b6499c1cab38a5d453c425e766c625b5c6f9cbcc3ab886353505e7184"),
    ("resshift", 2): (0.42429232597351074, "6b6c6a6e87a9b1a79a866f646b73737074726d6d84a5b0a992806e69727b7d7b"),
    ("dp2o", 0): (0.17534887790679932, "07324c3176c69393d2cc7f292c6586813b61642e6bd3b49ccab6611d2b536e79"),
    ("dp2o", 2): (0.14159762859344482, "46687e7192afa6a5aba07858655e58615e7d8c738bb8b8aca38e624a68706260"),
    ("asasr", 0): (0.3126923441886902, "14314661bedcb2a0909692553b486d89496363539edbc1a6928771424a69777d"),
    ("asasr", 2): (0.6062087416648865, "55626a5f73acc9ae8974685e5c60696e6b75796c7daec4a9846e64646d737576"),
    ("hggt-swinir", 0): (0.6940427422523499, "2552833ba2ccbb53dd5bd22617ab9483375c690b82a19899d5ad583e3c465e7b"),
    ("hggt-swinir", 2): (0.800675630569458, "2d478f37aac0ca4ee644e42a10b888822c6456079a8689a7d3b258374156526d"),
}
"""By preset and seed: the number that the generator gives next, and two lines of the second image's red in 1/255."""


@pytest.mark.parametrize(("name", "seed"), RECORDED)
def test_every_preset_draws_what_it_always_drew(name, seed):
    source = generator(seed)
    lq = degrade(texture(2), name, generator=source)
    after, pixels = RECORDED[name, seed]
    assert torch.rand((), generator=source).item() == after
    recorded = torch.tensor(list(bytes.fromhex(pixels))).reshape(2, 16)
    # A processor may round a convolution the other way; what is drawn moves pixels by far more.
    assert ((lq[1, 0, :2] * 255).round() - recorded).abs().max() <= 2


@pytest.mark.parametrize("name", PRESETS)
def test_telling_what_was_drawn_changes_no_pixel(name):
    hq, first, second = texture(3), generator(7), generator(7)
    told = degrade_and_tell(hq, name, generator=first)
    assert torch.equal(told.lq, degrade(hq, name, generator=second))
    assert torch.equal(first.get_state(), second.get_state())
    assert len(told.draws) == 3
    assert all(told.draws)


def test_the_values_told_are_those_that_were_applied():
    """A degradation whose ranges hold one value each is retold by that value."""
    stage = StageParameters(
        resize_prob=(0.0, 0.0, 1.0), gaussian_noise_prob=1.0, noise_range=(7.0, 7.0), gray_noise_prob=1.0,
        jpeg_range=(40.0, 40.0), blur_sigma_range=(1.5, 1.5), kernel_probs=(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        kernel_sizes=(9,),
        sinc_prob=0.0,
    )  # fmt: skip
    preset = DegradationPreset(
        source="one value each.", first=stage, second=replace(stage, jpeg_range=None), second_stage_prob=0.0,
        final_sinc_prob=1.0, final_sinc_kernel_sizes=(11,), final_jpeg_range=(60.0, 60.0),
    )  # fmt: skip
    for seed in range(4):
        (draws,) = degrade_and_tell(texture(), preset, generator=generator(seed)).draws
        told = {(draw.stage, draw.step): dict(draw.values) for draw in draws}
        assert told["first", "blur"] == {"kernel": "isotropic Gaussian", "size px": 9, "sigma px": 1.5}
        resized = told["first", "resize"]
        assert (resized["factor"], resized["width px"], resized["height px"]) == (1.0, 64, 64)
        assert told["first", "noise"] == {"kind": "Gaussian", "sigma of 255": 7.0, "channels": "share it"}
        assert told["first", "JPEG"] == {"quality": 40}
        assert told["second", "skipped"] == {}
        assert (told["final", "resize"]["width px"], told["final", "sinc filter"]["size px"]) == (16, 11)
        assert told["final", "JPEG"] == {"quality": 60}


def test_what_is_told_of_an_image_is_its_own_in_a_batch():
    """Images that stay clean are told apart from those that do not, in the order of the batch."""
    stage = replace(GENTLE, noise_range=(5.0, 5.0), gaussian_noise_prob=1.0)
    preset = DegradationPreset(source="half.", first=stage, clean_prob=0.5)
    hq = texture(8)
    told = degrade_and_tell(hq, preset, generator=generator(2))
    clean = [draws[0].stage == "clean" for draws in told.draws]
    assert 0 < sum(clean) < 8
    reduced = resize(hq, 16, 16).clamp(0, 1)
    for lq, only, is_clean in zip(told.lq, reduced, clean, strict=True):
        assert ((lq - only).abs().max() <= 0.51 / 255) == is_clean
