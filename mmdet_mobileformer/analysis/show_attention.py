"""From a trained detector and an image to sheets of its attention: ``tools/show_attention.py``."""

import argparse
import os

import cv2
import torch
from mmengine.dataset import pseudo_collate

from mmdet_mobileformer.analysis.attention import query_paths, recorded_attention
from mmdet_mobileformer.analysis.attention_sheets import backbone_sheets, decoder_sheets
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.detector import load_detector
from mmdet_mobileformer.models.e2e import MobileFormerDETR


def show_attention(args: argparse.Namespace) -> None:
    """Run the detector of ``args.run`` once on ``args.image``, and draw into ``args.out_dir``.

    Raises:
        UserError: If the run or the image is not there.
    """
    trained = load_detector(args.run, args, 'cpu')
    detector, preprocessor = trained.model, trained.model.data_preprocessor
    image = cv2.imread(args.image)
    if image is None:
        raise UserError(f'the image {args.image} does not exist or cannot be read.')
    data = preprocessor(pseudo_collate([trained.pipeline()(dict(img=image, img_id=0))]), False)
    if isinstance(detector, MobileFormerDETR):
        detector.after_block = detector.decoder.num_blocks  # all are drawn
    with torch.no_grad(), recorded_attention(detector) as records:
        output = detector(**data, mode='tensor')

    # The image as the network saw it: (h, w, 3) uint8, without padding.
    height, width = data['data_samples'][0].img_shape[:2]
    seen = data['inputs'][0, :, :height, :width] * preprocessor.std + preprocessor.mean
    seen = seen.permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
    what = f'{os.path.basename(args.config).removesuffix(".py")} on {os.path.basename(args.image)}'
    of_backbone = [record for record in records if record.name.startswith('backbone.')]
    sheets = backbone_sheets(seen, of_backbone, what)
    if isinstance(detector, MobileFormerDETR):
        of_decoder = [record for record in records if record.name.startswith('decoder.')]
        paths = query_paths(detector, *output, args.num_detections)
        sheets.update(decoder_sheets(seen, of_decoder, paths, trained.classes, what))
    os.makedirs(args.out_dir, exist_ok=True)
    for name, figure in sheets.items():
        figure.savefig(os.path.join(args.out_dir, name))
    print(f'wrote {len(sheets)} sheets to {args.out_dir}: {", ".join(sheets)}')
