"""`python -m animatediff` is the command `animatediff`, also where the folder of scripts is not on the path."""

from animatediff.cli.main import main

if __name__ == "__main__":
    main()
