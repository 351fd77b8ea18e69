"""``python -m selfsup``."""

import sys

try:
    from selfsup.cli import main
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] in ("selfsup", "sinkhorn_ot"):
        raise
    sys.exit(
        f"error: selfsup needs {error.name}, which is missing. Install the extra 'selfsup': "
        'pip install ".[selfsup]" in a checkout, or pip install "FILE.whl[selfsup]" for a wheel'
    )

if __name__ == "__main__":
    sys.exit(main())
