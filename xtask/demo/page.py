"""Renders a page of text with the font that Pillow carries in itself: the same pixels on every machine."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

LINES = [
    "The Engine in the Graph",
    "A model is a graph of operators, and a runtime walks it.",
    "Engraft looks for the parts that it can run better,",
    "compiles each of them into an engine, once,",
    "and grafts the engines into the graph. What is left",
    "stays with the host, which notices nothing.",
    "Order 4711, placed on 23 November 2026",
    "Bolts M8 x 40, 250 pieces: 31.75",
    "Washers 8.4 mm, 500 pieces: 9.90",
    "Hex keys, set of nine: 18.20",
    "Total: 59.85, payable within 30 days",
    "Thank you, and read on at chapter seven.",
]

WIDTH, MARGIN, SPACING = 1000, 60, 80


def render(path: Path) -> None:
    """Writes the page as a PNG."""
    image = Image.new("RGB", (WIDTH, 2 * MARGIN + SPACING * len(LINES)), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(LINES):
        size = 44 if number == 0 else 30
        draw.text((MARGIN, MARGIN + SPACING * number), line, "black", ImageFont.load_default(size))
    image.save(path)
