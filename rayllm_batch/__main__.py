"""python -m rayllm_batch"""

import sys

from rayllm_batch.cli import main

if __name__ == "__main__":  # vLLM may start processes that import this file again
    sys.exit(main())
