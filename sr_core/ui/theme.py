"""How the page looks: one accent colour, fonts that come with it, and the style sheet."""

from pathlib import Path

import gradio as gr

STATIC = Path(__file__).with_name("static")


def static_text(name: str) -> str:
    """Return the text of a file that lies beside the page's code."""
    return (STATIC / name).read_text(encoding="utf-8")


def style_sheets() -> str:
    """Return the page's style sheet with those of its views behind it."""
    names = sorted(path.name for path in STATIC.glob("*.css"))
    return "\n".join(static_text(name) for name in sorted(names, key=lambda name: name != "page.css"))


def page_theme() -> gr.themes.Base:
    """Return the theme; no font or style is fetched from elsewhere."""
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.zinc,
        radius_size=gr.themes.sizes.radius_md,
        font=[
            gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)),
            "Segoe UI",
            "Helvetica Neue",
            "sans-serif",
        ],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono"), "monospace"],
    )
    return theme.set(
        body_background_fill="#f6f7f8",
        body_background_fill_dark="#101214",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#181b1f",
        block_background_fill="#ffffff",
        block_background_fill_dark="#181b1f",
        block_border_color="#e2e5e9",
        block_border_color_dark="#2d3238",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_weight="600",
        button_primary_background_fill="#0f6e66",
        button_primary_background_fill_dark="#0f7a70",
        button_primary_background_fill_hover="#0b5952",
        button_primary_background_fill_hover_dark="#12857a",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        slider_color="#0f6e66",
        slider_color_dark="#4fc3b5",
    )
