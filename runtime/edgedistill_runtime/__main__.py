"""`python -m edgedistill_runtime`, for boards where the package is a folder and not an install."""

from edgedistill_runtime.cli import main

main()
