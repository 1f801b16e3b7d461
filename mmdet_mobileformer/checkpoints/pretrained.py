"""Pretrained weights of a backbone: all of them, or an error that says what does not fit."""

import re

from torch import nn

from mmdet_mobileformer.checkpoints.compare import Difference, shapes_of
from mmdet_mobileformer.checkpoints.reading import load_checkpoint_as_data, select_state_dict
from mmdet_mobileformer.errors import UserError


def load_pretrained(module: nn.Module, path: str, prefix: str = '') -> None:
    """Load all weights of a module from a checkpoint, read as data.

    mmengine's own loading passes over what does not fit, so that the wrong file would leave random
    weights behind. Here only one thing may differ: the file may hold further ``blocks``, those that
    the module does not build because no level that it returns needs them.

    Args:
        module: A backbone.
        path: The checkpoint: a converted one, one that ImageNet or detection training wrote, or a
            state dict of the module itself.
        prefix: What the names of the module's weights start with there, for example 'backbone.'.

    Raises:
        UserError: If the file cannot be read as data, or its weights are not the module's.
    """
    checkpoint = load_checkpoint_as_data(path)
    _, weights = select_state_dict(checkpoint, path)
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    own = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
    if not own:
        raise UserError(
            f'the pretrained weights {path} have no name that starts with {prefix!r} (the first is '
            f"{next(iter(weights))!r}); a checkpoint in the authors' format must first be "
            'converted by tools/convert_checkpoint.py.'
        )
    count = len(getattr(module, 'blocks', ()))
    beyond = [
        n for n in own if (match := re.match(r'blocks\.(\d+)\.', n)) and int(match[1]) >= count
    ]
    for name in beyond:
        del own[name]
    difference = Difference(shapes_of(own), shapes_of(module.state_dict()))
    if difference:
        variant = (checkpoint.get('meta') or {}).get('variant')
        said = f', which says that it is of variant {variant},' if variant else ''
        raise UserError(
            f'the pretrained weights {path}{said} do not fit the {type(module).__name__} that the '
            f'config builds: {difference.describe()}; name the file of the same arch in '
            'init_cfg.checkpoint.'
        )
    module.load_state_dict(own, strict=False)  # a count of batches may be missing
