"""Digits as people write them, drawn by synthetic pens: the shapes of each class, and how hands vary them.

A shape is a list of strokes, each a smooth curve through a few points. Every digit takes a shape of its class and
moves its points, bends, slants, stretches and turns the whole, and draws it with a pen of its own (see
`drawing.draw`). The last two shapes of each class draw no training digit: the validation digits take one, the test
digits the other, so that both tell what a network makes of hands that it has not seen. Digits can also be drawn in
other shapes: those of print.

Raise VERSION when the digits of the same seed change.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.drawing import MARKS, Array, draw, vary
from pipeline.sources.sample import SPLITS, Split

VERSION = 3

# Points of strokes, "x,y" in percent of the box around the digit, y downwards; "/" lifts the pen, and a point that is
# given twice is a corner.
SHAPES: dict[str, tuple[str, ...]] = {
    "0": (
        "60,10 40,0 5,30 5,75 45,100 90,75 95,25 60,0 30,15",
        "30,0 5,30 10,80 55,100 95,70 90,20 60,0 25,3",
        "50,0 20,8 0,50 20,92 50,100 80,92 100,50 80,8 50,0",
        "65,5 40,0 10,25 0,60 20,95 50,100 85,80 100,45 85,10 55,0 40,5",
        "60,3 25,10 2,45 12,85 45,100 85,80 98,40 80,8",
        "40,5 75,3 100,40 90,85 50,100 10,85 0,45 20,8 50,2",
        "50,0 15,5 0,25 0,75 15,95 50,100 85,95 100,75 100,25 85,5 50,0",
        "60,0 60,0 25,25 0,65 20,97 55,100 90,75 90,40 60,0 60,0",
        "45,5 10,30 5,75 40,100 85,80 95,40 70,10",
        "55,15 35,5 5,40 10,85 50,100 90,75 95,30 65,2 40,15 60,25",
        "90,0 45,5 5,40 10,85 50,100 90,75 90,30 55,3 30,15",
        "60,0 40,3 15,35 5,75 30,100 75,98 98,70 80,25 60,0",
        "70,12 75,0 30,8 0,55 15,95 55,98 95,60 95,20 70,0 50,25",
        "60,2 25,15 15,50 25,90 55,98 85,80 88,40 65,5",
        "30,5 0,40 10,85 50,100 95,85 100,45 75,8 35,2 10,30",
        "85,0 50,6 10,30 0,65 25,97 60,97 95,65 95,30 70,8 40,12",
        "35,8 5,40 5,80 40,100 80,90 100,50 85,12 45,0 30,20",
    ),
    "1": (
        "20,30 50,0 50,0 50,100",
        "10,25 45,0 45,0 45,100 / 0,100 90,100",
        "50,0 50,100",
        "50,0 50,100",
        "50,0 50,100",
        "55,0 48,50 50,100",
        "46,0 51,50 49,100",
        "30,18 55,0 55,0 52,100",
        "15,28 58,0 58,0 55,100",
        "25,20 55,0 55,0 55,100 / 15,100 95,100",
        "40,10 52,0 52,0 50,100",
        "50,0 48,85 58,100",
        "-25,45 60,0 60,0 50,100",
        "0,25 70,0 70,0 40,100",
        "-10,35 55,0 55,0 50,100 / -30,100 110,100",
        "54,0 50,50 45,100",
        "45,0 52,40 50,100",
        "-20,30 50,0 50,0 55,100",
        "-10,22 50,2 50,2 50,100",
        "-30,35 55,0 55,0 50,100",
        "0,20 50,0 50,0 50,100 / -20,100 120,98",
        "52,0 50,30 48,100",
        "48,0 50,60 54,100",
        "0,40 60,0 60,0 60,100",
        "50,0 50,100 / 20,100 80,100",
    ),
    "2": (
        "0,25 25,0 75,5 85,35 40,80 0,100 0,100 40,92 100,98",
        "25,20 45,2 70,10 70,35 45,65 0,98 0,98 100,100",
        "5,25 20,5 50,0 85,10 90,30 70,55 30,80 0,100 0,100 50,98 100,98",
        "8,22 30,2 65,0 85,20 75,50 40,80 12,97 0,90 8,78 30,82 60,95 100,95",
        "0,30 15,8 50,0 80,12 85,35 60,65 20,95 5,95 5,82 25,80 55,92 80,100 100,88",
        "0,10 20,0 80,0 90,20 60,55 0,100 0,100 100,100",
        "10,30 25,5 60,0 90,20 80,50 45,75 5,98 5,98 45,88 80,98 100,90",
        "25,30 8,25 12,8 45,0 85,10 88,35 55,70 0,100 0,100 100,95",
        "5,15 40,0 85,8 80,35 0,100 0,100 100,98",
        "5,10 70,0 85,8 60,45 5,95 5,95 100,85",
        "5,8 80,0 80,0 5,100 5,100 90,95",
        "15,20 45,5 60,25 40,60 0,98 15,85 40,75 60,95 100,85",
        "0,20 45,0 85,15 70,50 10,100 10,100 60,88 100,100",
        "5,20 45,0 90,15 80,45 20,100 20,100 75,100",
        "0,15 35,0 60,15 50,45 5,98 5,98 120,92",
        "10,20 45,0 75,20 60,60 20,95 0,85 15,70 40,80 60,97 100,95",
        "20,35 10,15 45,0 85,12 80,45 30,85 0,100 0,100 100,92",
        "10,15 50,0 70,10 50,50 15,95 15,95 40,85 95,90",
        "15,25 15,10 50,0 80,15 70,45 30,80 5,90 15,100 45,88 75,92 100,100",
        "5,25 20,5 60,0 85,18 75,45 25,85 0,100 0,100 95,100",
        "10,12 60,0 85,15 60,55 15,85 0,98 0,98 110,95",
        "5,20 40,0 80,10 85,35 55,65 10,90 0,100 0,100 30,90 70,100 100,95",
        "0,18 30,0 75,2 95,25 70,52 30,75 5,95 20,99 60,97 100,100",
    ),
    "3": (
        "10,0 85,0 85,0 45,38 45,38 90,50 95,80 55,100 5,92",
        "20,15 45,0 80,8 75,30 40,45 40,45 70,45 90,62 80,90 40,100 0,95",
        "5,12 35,0 80,5 88,25 65,43 35,47 35,47 75,52 100,72 85,93 45,100 5,90",
        "5,2 90,0 90,0 40,40 40,40 80,45 100,68 80,95 40,100 0,88",
        "5,15 40,0 85,12 80,35 45,48 30,44 45,40 80,52 98,75 70,98 30,100 0,85",
        "0,20 20,3 60,0 90,18 80,40 40,50 85,55 100,78 75,98 30,100 0,80",
        "15,10 45,0 75,10 72,30 40,42 40,42 85,50 100,75 70,100 20,97 0,85",
        "0,15 45,0 100,15 90,38 40,50 40,50 80,56 90,75 65,95 10,100",
        "0,8 70,0 85,8 40,40 40,40 75,50 80,75 50,98 0,100",
        "5,12 45,0 80,15 65,38 35,48 30,42 45,42 80,58 85,82 45,100 0,90",
        "15,22 10,8 45,0 80,15 65,40 40,46 40,46 80,60 85,85 45,100 10,95 10,82",
        "10,10 50,0 85,18 60,42 50,47 85,62 85,85 45,100 5,88",
        "20,5 55,0 75,15 45,32 45,32 95,50 95,80 50,100 0,88",
        "0,10 50,0 100,25 60,55 45,55 75,62 85,80 50,100 10,95",
        "0,12 50,0 75,12 30,42 30,42 85,50 60,90 20,100",
        "25,5 55,0 70,12 60,30 35,40 35,40 80,58 85,80 50,100 5,95",
        "15,15 40,0 75,8 70,30 30,45 30,45 70,48 85,70 60,95 10,100",
        "0,8 60,0 75,5 35,38 35,38 75,48 75,70 40,100",
        "10,0 75,5 75,5 30,40 30,40 75,45 90,70 65,95 15,95",
        "20,10 50,0 72,12 62,35 40,45 62,52 78,72 60,95 20,100 5,88",
        "0,5 80,5 80,5 35,42 35,42 100,62 60,95 0,100",
        "10,8 50,0 90,12 75,38 50,48 80,58 100,80 60,100 10,95",
    ),
    "4": (
        "60,0 0,68 0,68 100,66 / 66,2 62,100",
        "50,0 5,62 5,62 95,60 / 72,28 68,100",
        "10,0 8,30 20,48 50,50 80,40 / 85,0 78,100",
        "15,0 0,55 0,55 100,52 / 75,5 68,100",
        "12,0 5,45 20,60 60,58 95,50 / 85,0 80,50 75,100",
        "70,0 70,0 0,65 0,65 100,65 / 70,0 70,100",
        "20,0 0,50 0,50 85,48 85,48 90,5 90,5 80,100",
        "5,0 0,30 10,50 50,55 90,45 / 92,0 88,100",
        "30,0 5,50 5,50 80,50 / 60,25 50,100",
        "35,0 0,60 0,60 75,55 / 90,0 45,100",
        "25,5 0,45 25,62 85,40 / 95,5 60,100",
        "55,5 0,60 0,60 100,65 / 62,0 55,100",
        "5,0 5,45 30,55 75,45 / 80,0 80,100",
        "15,5 10,50 10,50 90,50 / 85,0 85,100",
        "60,15 0,65 0,65 100,60 / 70,0 65,100",
        "35,0 0,55 0,55 95,50 / 55,30 50,100",
        "10,0 0,35 30,50 85,30 95,0 95,0 70,100",
        "40,15 0,60 40,65 100,55 / 80,0 50,100",
        "60,0 0,80 0,80 100,78 / 65,5 62,100",
        "45,0 10,40 10,40 100,38 / 70,5 65,100",
        "70,0 20,45 0,65 30,68 100,60 / 70,0 60,100",
        "60,0 60,0 5,60 5,60 90,55 / 60,0 50,100",
        "65,0 10,65 10,65 75,60 / 65,0 55,100",
        "60,5 15,45 5,68 80,62 / 65,0 60,100",
        "70,0 0,60 0,60 85,58 / 75,0 60,100",
        "55,0 15,55 15,55 85,60 / 55,0 55,100",
        "45,5 0,60 20,68 95,55 / 75,5 50,100",
        "75,100 75,0 75,0 0,62 0,62 100,62",
        "10,5 5,52 5,52 95,56 / 65,0 60,100",
    ),
    "5": (
        "75,0 30,0 25,5 15,45 15,45 60,42 85,65 70,92 20,100",
        "30,0 20,45 20,45 60,45 75,70 55,98 0,95 / 30,0 100,-3",
        "10,0 5,45 5,45 50,38 95,60 85,90 45,100 0,90 / 10,2 95,0",
        "95,0 15,3 15,3 5,45 5,45 55,38 98,65 75,97 30,100 0,88",
        "90,2 30,2 20,20 15,42 60,42 95,65 80,92 40,100 0,92",
        "20,10 12,45 12,45 55,40 85,65 65,95 10,100 / 20,10 100,0",
        "90,5 50,0 18,15 20,38 60,50 90,70 75,95 35,100 0,90",
        "15,12 8,48 8,48 50,42 90,65 75,95 30,100 0,92 / 25,0 95,3",
        "85,3 45,0 20,12 25,35 65,55 80,78 50,100 0,92",
        "30,5 20,40 20,40 65,45 75,65 40,95 0,100 / 30,8 110,0",
        "15,15 10,45 10,45 55,35 95,60 80,95 20,100 / 30,0 100,-5",
        "35,5 15,45 15,45 55,35 85,60 65,92 20,100 0,85 / 35,3 70,8 100,-3",
        "100,0 40,2 40,2 20,42 20,42 60,42 75,65 50,95 0,100",
        "70,0 25,5 10,45 55,45 85,70 55,98 10,90 15,75",
        "100,0 25,25 25,25 65,45 70,65 0,100",
        "30,0 15,45 15,45 70,45 85,70 60,95 0,95 / 30,0 130,-2",
        "25,0 20,60 20,60 55,52 80,75 55,100 5,95 / 25,0 95,0",
        "30,0 20,28 20,28 75,25 100,60 70,98 0,95 / 30,0 90,0",
        "85,0 35,15 15,50 15,50 60,45 75,65 55,90 5,100",
        "100,0 40,5 25,35 70,45 75,70 45,98 0,90",
        "20,5 15,40 15,40 50,35 80,55 75,85 40,100 5,95 / 20,8 90,0",
        "35,0 25,40 25,40 70,50 70,75 40,100 0,98 / 35,2 105,8",
        "95,0 35,2 30,35 30,35 75,45 90,70 65,95 15,100",
        "10,0 15,35 15,35 65,35 95,60 80,90 40,100 5,92 / 10,0 80,0",
        "95,0 20,0 20,0 10,45 10,45 70,45 90,65 90,65 60,100 0,95",
        "10,5 8,45 8,45 60,40 95,65 70,98 5,95 / 10,5 60,0",
    ),
    "6": (
        "40,0 10,45 5,80 30,100 70,92 75,65 45,55 10,75",
        "85,8 60,0 25,20 5,60 20,95 60,100 90,80 80,58 45,52 15,72",
        "70,0 30,25 5,60 10,90 45,100 85,88 88,65 55,52 15,65",
        "90,5 50,5 15,35 0,70 25,98 65,98 95,78 80,55 40,52 8,72",
        "60,0 25,40 5,70 20,97 60,100 90,80 75,60 40,60 10,78",
        "55,0 25,30 8,65 15,95 50,100 75,85 65,68 35,68 15,82",
        "75,0 35,12 5,45 5,80 40,100 85,90 95,60 65,42 25,48 5,65",
        "80,0 40,35 10,75 20,98 50,98 75,82 70,68 45,68 22,90",
        "25,0 5,45 20,90 50,95 75,70 60,55 30,95",
        "35,0 5,60 10,95 40,95 60,70 40,60 15,95",
        "75,0 25,35 5,75 30,100 70,95 65,72 35,72 20,90",
        "60,0 15,30 0,65 25,98 80,95 100,65 70,40 25,45 5,65",
        "60,0 15,30 0,65 35,100 85,90 85,65 55,60 45,85",
        "60,0 15,35 0,70 35,100 85,95 95,65 70,50 45,60 45,90",
        "65,0 20,30 0,70 35,100 80,90 80,60 50,55",
        "35,0 10,50 10,85 45,100 85,85 75,60 35,60 12,80",
        "45,0 10,50 15,90 50,100 80,80 65,60 40,70 30,95",
        "20,0 5,45 10,90 45,100 80,90 85,70 60,60 25,75",
        "90,0 55,15 15,55 5,85 35,100 70,90 75,70 50,60 15,75",
        "10,0 5,40 5,80 40,100 85,85 85,62 50,52 10,65",
        "95,12 70,0 35,10 8,45 5,80 45,100 90,85 85,60 45,55 10,72",
    ),
    "7": (
        "0,0 100,0 100,0 30,100",
        "0,12 10,2 10,2 95,4 95,4 60,45 50,100",
        "0,2 95,0 95,0 40,100",
        "0,5 50,8 100,0 100,0 60,45 45,100",
        "0,2 95,0 95,0 40,100 / 25,52 90,48",
        "5,20 5,2 5,2 95,2 95,2 45,100",
        "0,15 15,0 55,10 100,2 100,2 55,55 40,100",
        "25,12 80,0 80,0 40,100",
        "0,25 0,0 0,0 100,0 100,0 55,100",
        "0,5 90,0 90,0 55,40 35,100",
        "0,15 90,0 90,0 35,100",
        "0,0 95,5 95,5 50,100 / 15,50 120,45",
        "10,3 100,0 100,0 65,45 60,100 / 40,50 105,45",
        "0,10 25,0 55,8 100,0 100,0 60,50 45,100 / 35,50 90,48",
        "0,5 60,0 95,10 80,45 45,100",
        "0,0 80,0 80,0 80,100",
        "0,20 5,0 5,0 100,0 100,0 60,50 50,100",
        "5,10 90,5 90,5 65,50 45,100 / 20,55 85,45",
        "10,0 90,8 90,8 60,50 50,100 / 25,60 85,55",
        "0,15 5,3 5,3 90,0 90,0 70,35 55,100",
        "0,8 30,0 60,6 95,2 95,2 65,45 55,100",
        "5,0 90,0 90,0 75,50 70,100",
        "10,5 90,0 90,0 70,40 60,100",
        "0,8 60,0 92,8 85,30 55,65 40,100",
    ),
    "8": (
        "95,0 40,5 10,20 80,80 55,100 15,90 25,65 95,0",
        "60,0 20,20 75,75 55,100 15,85 85,15 60,0",
        "85,12 50,0 15,15 25,38 70,55 95,78 60,100 15,92 8,72 40,50 80,32 88,12",
        "50,0 15,10 15,35 50,47 85,35 85,10 50,0 / 50,47 5,62 5,90 50,100 95,90 95,62 50,47",
        "90,5 50,0 12,20 35,42 80,65 85,92 45,100 12,85 25,60 65,40 95,15",
        "50,45 15,30 20,5 55,0 85,12 80,32 50,45 15,62 5,85 45,100 90,90 88,65 50,45",
        "80,5 40,5 20,25 45,45 75,65 65,92 30,100 10,80 35,55 70,35 80,5",
        "70,5 40,3 30,20 50,40 90,65 80,95 30,100 5,80 30,52 65,35 70,5",
        "90,15 50,0 10,10 40,45 80,75 50,100 20,80 50,45 100,0",
        "80,10 45,0 15,20 45,48 80,70 75,95 35,100 15,78 50,45 95,5",
        "65,5 35,5 30,22 55,38 95,68 70,98 20,98 5,72 40,40 70,22 65,5",
        "85,10 50,0 10,12 15,35 50,55 75,75 60,98 35,98 25,78 50,55 90,35 85,10",
        "50,0 25,12 25,38 50,48 78,38 78,12 50,0 / 50,48 20,62 20,90 50,100 80,90 80,62 50,48",
        "95,0 60,25 20,60 15,90 50,100 75,80 55,50 20,25 30,3 70,5",
        "85,12 45,0 15,18 40,42 80,68 70,98 25,98 15,75 45,50 85,30",
        "75,5 40,2 10,18 30,40 80,60 85,85 50,100 15,90 15,65 60,45 90,20 75,5",
        "60,0 35,8 35,30 55,48 65,75 50,100 30,80 45,50 65,25 60,0",
        "50,0 5,15 20,42 80,52 100,80 50,100 0,82 15,55 80,40 95,15 50,0",
        "90,10 65,0 35,5 30,28 60,50 75,80 50,100 20,88 25,65 60,45 95,15",
        "90,8 50,0 5,15 20,42 70,62 75,90 40,100 20,85 30,62 80,40 95,15",
        "75,8 45,0 15,18 30,40 75,58 92,80 55,100 10,88 15,65 50,48 85,22",
    ),
    "9": (
        "70,5 20,5 10,35 45,42 85,15 85,15 85,60 50,98 0,92",
        "75,0 25,8 15,30 45,38 90,12 80,60 40,100 0,95",
        "80,10 40,0 5,22 20,48 55,45 82,15 82,15 85,60 60,95 15,95",
        "100,5 50,0 0,25 20,50 70,40 95,10 95,10 50,100",
        "85,12 45,0 5,20 10,48 50,52 85,25 85,12 85,12 78,100",
        "88,15 50,0 8,18 12,48 55,50 88,20 90,50 70,90 30,100 10,92",
        "80,5 35,5 5,28 25,50 65,42 90,10 85,55 75,100",
        "85,10 40,0 5,25 25,50 70,45 88,15 / 90,3 80,100",
        "75,8 45,0 20,12 25,32 55,35 75,12 75,12 65,100",
        "95,25 65,0 15,8 0,35 30,60 75,52 95,25 90,65 75,100",
        "75,10 45,0 25,15 35,38 65,35 75,10 75,10 65,100",
        "95,10 60,0 10,15 0,32 30,40 80,20 95,5 95,5 70,100",
        "95,30 80,5 30,0 0,25 10,55 50,65 90,45 98,25 90,70 50,100 15,92",
        "70,8 35,5 10,30 30,50 75,40 95,5 / 95,0 85,100",
        "90,30 60,50 15,40 15,10 60,0 90,20 85,60 80,100",
        "85,8 40,0 10,20 25,45 65,40 85,10 85,10 80,55 45,100 5,85",
        "85,10 45,0 15,25 25,45 60,40 85,10 85,10 70,60 65,100",
        "70,5 30,10 15,40 15,40 80,30 80,5 80,5 85,100",
        "80,5 30,15 10,40 45,45 80,5 80,5 60,100",
        "95,15 60,0 25,10 20,35 50,45 85,30 95,15 80,65 45,95 10,100",
        "90,10 55,0 15,15 10,42 45,50 80,30 92,8 75,55 55,100",
        "90,20 50,0 10,20 10,45 45,55 88,25 88,70 60,100 20,97 0,85",
    ),
}  # fmt: skip
# Digits in print, without their serifs; a zero may have a dot, and a one a foot.
PRINTED: dict[str, tuple[str, ...]] = {
    "0": (
        "50,0 20,8 0,50 20,92 50,100 80,92 100,50 80,8 50,0",
        "50,0 27,10 12,50 27,90 50,100 73,90 88,50 73,10 50,0",
        "50,0 22,10 5,50 22,90 50,100 78,90 95,50 78,10 50,0 / 50,45 50,55",
    ),
    "1": (
        "15,22 55,0 55,0 55,100",
        "-10,20 50,0 50,0 50,100 / -30,100 130,100",
        "10,14 50,0 50,0 50,100 / 5,100 95,100",
    ),
    "2": ("0,22 15,5 45,0 80,8 92,28 80,50 40,75 0,100 0,100 100,100",),
    "3": ("5,12 40,0 80,8 90,26 78,42 45,48 45,48 82,54 100,74 85,94 45,100 0,88",),
    "4": ("72,100 72,0 72,0 0,68 0,68 100,68",),
    "5": ("90,0 18,0 18,0 10,48 10,48 45,36 82,42 100,68 85,92 45,100 0,90",),
    "6": ("88,8 60,0 25,12 5,40 2,65 15,90 50,100 85,92 100,68 88,45 55,38 20,48 3,70",),
    "7": ("0,0 100,0 100,0 35,100",),
    "8": ("50,47 18,38 10,22 22,5 50,0 78,5 90,22 82,38 50,47 15,56 0,75 15,94 50,100 85,94 100,75 85,56 50,47",),
    "9": ("12,92 40,100 75,88 95,60 98,35 85,10 50,0 15,8 0,32 12,55 45,62 80,52 97,30",),
}
WIDTH = {"0": 0.75, "1": 0.4, "2": 0.75, "3": 0.65, "4": 0.7, "5": 0.7, "6": 0.6, "7": 0.65, "8": 0.6, "9": 0.6}
WOBBLE = 0.04  # of the height: standard deviation of each point,
LIFTED = 0.03  # and of each stroke that follows another
RADIUS, RADIUS_VARIES = 0.072, 0.35  # of the height: half the width of a stroke, its median and log-deviation
RADII = 0.03, 0.14
PRINT_VARIES = 0.7  # log-deviation in print: from light to bold
CORNER = 0.05  # of all nodes: standard deviation of the Gaussian that rounds corners
NODES = MARKS + 1
DENSE = 400  # points by which the length of a stroke is measured


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape whose nodes, spaced evenly along its strokes, are linear functions of its points.

    points : float32 (P, 2), the height is 1
    place, stroke : (P,), numbers that are equal for a point given twice, and for those of one stroke
    curve, rounded : float32 (NODES, P), the nodes, and the nodes with rounded corners
    drawn : float32 (MARKS,), 1 between two nodes of a stroke, 0 where the pen is lifted
    """

    points: Array
    place: Array
    stroke: Array
    curve: Array
    rounded: Array
    drawn: Array

    @staticmethod
    @cache
    def of(text: str, width: float) -> "Shape":
        """The shape of one of `SHAPES`, as wide as that share of its height."""
        strokes = [
            np.array([[float(value) for value in point.split(",")] for point in stroke.split()]) * (width / 100, 0.01)
            for stroke in text.split("/")
        ]
        points = np.concatenate(strokes)
        stroke = np.repeat(np.arange(len(strokes)), [len(s) for s in strokes])
        new = np.append(True, (np.diff(points, axis=0) != 0).any(1) | (np.diff(stroke) != 0))
        parts = [_along(s, share) for s, share in zip(strokes, _shares(strokes), strict=True)]
        curve, rounded = (_block_diagonal([part[i] for part in parts]) for i in (0, 1))
        of_node = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        drawn = (np.diff(of_node) == 0).astype(np.float32)
        return Shape(points.astype(np.float32), new.cumsum() - 1, stroke, curve, rounded, drawn)


def _shares(strokes: list[Array]) -> list[int]:
    """How many nodes each stroke gets: by its length."""
    lengths = np.array([np.hypot(*np.diff(stroke, axis=0).T).sum() for stroke in strokes])
    shares = np.maximum(6, np.rint(NODES * lengths / lengths.sum())).astype(int)
    shares[lengths.argmax()] += NODES - shares.sum()
    return [int(share) for share in shares]


def _along(stroke: Array, n: int) -> tuple[Array, Array]:
    """Matrices (n, P) from a stroke's P points to n nodes, evenly spaced; without and with rounded corners."""
    t = np.linspace(0, len(stroke) - 1, DENSE)
    length = np.hypot(*np.diff(_catmull_rom(len(stroke), t) @ stroke, axis=0).T).cumsum()
    curve = _catmull_rom(len(stroke), np.interp(np.linspace(0, length[-1], n), np.append(0, length), t))
    i = np.arange(n)
    blur = np.exp(-0.5 * ((i[:, None] - i) / (CORNER * NODES)) ** 2)
    blur[[0, -1]] = np.eye(n)[[0, -1]]  # the ends stay
    return curve, blur / blur.sum(1, keepdims=True) @ curve


def _catmull_rom(n: int, t: Array) -> Array:
    """The matrix (len(t), n) from n points to those of a smooth curve through them, at t from 0 to n - 1 (Catmull & Rom
    1974)."""
    i = np.minimum(t.astype(int), n - 2)
    u = t - i
    parts = ((2 - u) * u - 1) * u, (3 * u - 5) * u**2 + 2, ((4 - 3 * u) * u + 1) * u, (u - 1) * u**2
    matrix = np.zeros((len(t), n))
    for k, part in enumerate(parts):
        np.add.at(matrix, (np.arange(len(t)), (i + k - 1).clip(0, n - 1)), part / 2)
    return matrix


def _block_diagonal(blocks: list[Array]) -> Array:
    made = np.zeros((sum(len(b) for b in blocks), sum(b.shape[1] for b in blocks)), np.float32)
    row = column = 0
    for block in blocks:
        made[row : row + len(block), column : column + block.shape[1]] = block
        row, column = row + len(block), column + block.shape[1]
    return made


def digits(split: Split, n: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """`n` digits in MNIST's form, uint8 (n, 28, 28), as many of each class, and their labels.

    Example
    -------
    >>> pictures, labels = digits("test", 20, seed=0)
    >>> pictures.shape, labels[:3]
    ((20, 28, 28), ['0', '0', '1'])
    """
    return _of_classes(partial(_of_class, split, n // len(SHAPES), seed))


def printed(n: int, seed: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Like `digits`, in the shapes of print and with strokes of any width, moved, bent and slanted as those are.

    Example
    -------
    >>> pictures, labels = printed(20, seed=0)
    >>> pictures.shape, labels[:3]
    ((20, 28, 28), ['0', '0', '1'])
    """
    return _of_classes(partial(_of_class_in_print, n // len(PRINTED), seed))


def _of_classes(of_class: Callable[[str], NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], list[str]]:
    """What the function draws of every class, and the labels."""
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(of_class, SHAPES))
    return np.concatenate(made), [label for label, pictures in zip(SHAPES, made, strict=True) for _ in pictures]


def _of_class(split: Split, n: int, seed: int, label: str) -> NDArray[np.uint8]:
    """`n` digits of one class."""
    rng = np.random.default_rng([VERSION, seed, SPLITS.index(split), int(label)])
    texts = {"train": SHAPES[label][:-2], "validation": SHAPES[label][-2:-1], "test": SHAPES[label][-1:]}[split]
    return _in_shapes(texts, WIDTH[label], n, RADIUS_VARIES, rng)


def _of_class_in_print(n: int, seed: int, label: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng([VERSION, seed, int(label)])
    return _in_shapes(PRINTED[label], WIDTH[label], n, PRINT_VARIES, rng)


def _in_shapes(
    texts: Sequence[str], width: float, n: int, radius_varies: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """`n` digits, each in one of these shapes."""
    counts = rng.multinomial(n, np.full(len(texts), 1 / len(texts))).tolist()
    shapes = [Shape.of(text, width) for text in texts]
    drawn = [_drawn(one, count, radius_varies, rng) for one, count in zip(shapes, counts, strict=True) if count]
    return np.concatenate(drawn)


def _drawn(shape: Shape, n: int, radius_varies: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """`n` digits of one shape."""

    def normal(deviation: float, *size: int) -> Array:
        return np.float32(deviation) * rng.standard_normal((n, *size), np.float32)

    moved = shape.points + normal(WOBBLE, int(shape.place[-1]) + 1, 2)[:, shape.place]
    moved += normal(LIFTED, int(shape.stroke[-1]) + 1, 2)[:, shape.stroke]
    nodes = np.matmul(shape.curve, moved)
    nodes += rng.random((n, 1, 1), np.float32) * (np.matmul(shape.rounded, moved) - nodes)
    nodes = vary(nodes, 1.0, rng)
    steps = np.diff(nodes, axis=1)
    weights = np.hypot(steps[..., 0], steps[..., 1]) * shape.drawn * _pressure(n, rng)
    radius = (RADIUS * np.exp(normal(radius_varies))).clip(*RADII)
    edge = 0.4 + rng.random(n, np.float32) ** 2
    return draw((nodes[:, 1:] + nodes[:, :-1]) / 2, weights, radius, edge)


def _pressure(n: int, rng: np.random.Generator) -> Array:
    """Of the pen along the strokes, float32 (n, MARKS): it varies; some strokes begin late, end early, break off in
    between or fade."""
    t = np.linspace(0, 1, MARKS, dtype=np.float32)

    def uniform(low: float, high: float) -> Array:
        return rng.uniform(low, high, (n, 1)).astype(np.float32)

    pressure = 1 + uniform(0, 0.35) * np.sin(uniform(2, 12) * t + uniform(0, 2 * np.pi))
    fading = np.minimum(1, (1 - t) * uniform(3, 12) + 0.45)
    pressure = np.where(uniform(0, 1) < 0.3, pressure * fading, pressure)
    begun, ended = t >= uniform(-0.06, 0.05), t > uniform(0.95, 1.06)
    gap = np.abs(t - uniform(0, 14)) < uniform(0.01, 0.035)  # in one digit of fourteen
    return np.where(begun & ~ended & ~gap, pressure, 0).astype(np.float32)
