"""Names that people really give, or that damage leaves, for tests of everything that shows them."""

import os

NASTY = [
    "行人",  # Chinese
    "猫とねこ",
    "한국어",
    "سيارة & <b>car</b>",
    "שלום",
    "हिन्दी",
    "รถยนต์",
    "автомобиль",
    "😀 🚗",
    "from 5$ to 10_$",
    r"\frac{1 $x^$",
    "<script>alert(1)</script>",
    "100 % {braces} #1",
    "two\nlines\tand a tab",
    "a bell\x07 and a zero\x00",
    "\u202eturned around",
    "\ud800 half a character",
    os.fsdecode(b"h\xfcnd"),
    "",
    " \u200b ",
    "_hidden",
    "long " * 30,
    "x" * 150,
    "crane",
    "crane",
    " crane ",
]
