"""One training step and one prediction of any detector on tiny images."""

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData


def tiny_batch(num_classes, size=(64, 96), num_images=2):
    """A batch as mmdet's data loader gives it: uint8 images (3, H, W) with two boxes each."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    inputs, samples = [], []
    for _ in range(num_images):
        inputs.append(torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8))
        sample = DetDataSample(
            metainfo=dict(
                img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), img_id=0
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[4.0, 6.0, 40.0, 50.0], [30.0, 10.0, width - 2.0, height - 4.0]]),
            labels=torch.tensor([0, num_classes - 1]),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def check_training_step(detector, optim_wrapper, num_classes, size=(64, 96)):
    """Train one step; the loss must be finite and every trained parameter must get a gradient."""
    detector.train()
    missing = {name for name, p in detector.named_parameters() if p.requires_grad}
    hooks = [
        parameter.register_hook(lambda gradient, name=name: missing.discard(name))
        for name, parameter in detector.named_parameters()
        if parameter.requires_grad
    ]
    logs = detector.train_step(tiny_batch(num_classes, size), optim_wrapper)
    for hook in hooks:
        hook.remove()
    assert torch.isfinite(logs['loss']), logs
    assert not missing, sorted(missing)[:5]


def check_prediction(detector, num_classes, size=(64, 96)):
    """Predict and check that boxes, scores and labels are those of a detector."""
    detector.eval()
    with torch.no_grad():
        results = detector.test_step(tiny_batch(num_classes, size))
    assert len(results) == 2
    for result in results:
        found = result.pred_instances
        assert found.bboxes.shape == (len(found), 4) and torch.isfinite(found.bboxes).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert ((found.labels >= 0) & (found.labels < num_classes)).all()
