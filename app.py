"""`python app.py`: the web page, the same as `animatediff ui`."""

import sys

from animatediff.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "ui")
    main()
