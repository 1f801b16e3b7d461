"""PyTorch's torchrun for tools/dist_*.sh, which ends with the code that the tools end with.

torchrun ends with 1 and a traceback of its own whatever its processes met. A scheduler must be able
to tell a run that SIGTERM or Ctrl-C ended after it was saved (143, 130), and a user's mistake, for
which there is a sentence already (2), needs no traceback behind it.
"""

import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

TOLD = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)

if __name__ == '__main__':
    try:
        main()
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode not in TOLD:
            raise
        sys.exit(failure.exitcode)
