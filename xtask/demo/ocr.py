"""A program that knows nothing of Engraft: reads images with RapidOCR.

Each line of its input names an image; it answers with one line of JSON: the recognised texts and the seconds it took.
"""

import json
import sys
import time

from rapidocr_onnxruntime import RapidOCR

read = RapidOCR()
for line in sys.stdin:
    start = time.perf_counter()
    boxes, _ = read(line.rstrip("\n"))
    seconds = time.perf_counter() - start
    print(json.dumps({"texts": [text for _, text, _ in boxes or []], "seconds": seconds}), flush=True)
