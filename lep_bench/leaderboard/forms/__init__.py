"""The table as text: terminal, Markdown, CSV, JSON, HTML, LaTeX. Nothing here computes a statistic."""
