"""Detect with an exported model: ``python onnx_inference.py MODEL.onnx IMAGE [LOWEST_SCORE]``."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

options = onnxruntime.SessionOptions()
options.add_session_config_entry('session.set_denormal_as_zero', '1')  # on many CPUs faster
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])
about = session.get_modelmeta().custom_metadata_map
classes, settings = json.loads(about['classes']), json.loads(about['preprocessing'])

# Resize as in training: into `scale`, or by `scale_factor`.
picture = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert('RGB')
width, height = picture.size
resize = settings['resize'] or {'scale_factor': 1.0}
if 'scale' in resize:
    long, short = max(resize['scale']), min(resize['scale'])
    factor = min(long / max(width, height), short / min(width, height))
else:
    factor = resize['scale_factor']
new_width, new_height = int(width * factor + 0.5), int(height * factor + 0.5)
if 'scale' in resize and not resize.get('keep_ratio'):
    new_width, new_height = resize['scale']
pixels = np.asarray(picture.resize((new_width, new_height), Image.BILINEAR), np.float32)

# Normalise, then pad at the right and at the bottom.
if settings['channel_order'] == 'BGR':
    pixels = pixels[..., ::-1]
pixels = (pixels - np.float32(settings['mean'])) / np.float32(settings['std'])
divisor = settings['pad_size_divisor']
padding = (0, -new_height % divisor), (0, -new_width % divisor), (0, 0)
pixels = np.pad(pixels, padding, constant_values=settings['pad_value'])

inputs = {
    'image': np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]),
    'image_size': np.array([[new_height, new_width]]),
    'original_size': np.array([[height, width]]),
}
boxes, scores, labels = (output[0] for output in session.run(None, inputs))
lowest = float(sys.argv[3]) if len(sys.argv) > 3 else 0.3
for box, score, label in zip(boxes, scores, labels, strict=True):
    if label >= 0 and score >= lowest:  # the label -1 fills up
        print(f'{classes[label]} {score:.3f}', *(f'{corner:.1f}' for corner in box))
