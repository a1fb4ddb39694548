"""The page's parts; the only place that imports gradio."""
