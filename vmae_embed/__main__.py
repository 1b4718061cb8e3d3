"""``python -m vmae_embed`` is ``vmae-embed``."""

from vmae_embed.cli import main

if __name__ == "__main__":
    main()
