"""`e4t`, and `python -m e4t_minimal`, as `accelerate launch -m` needs it."""

from .helpers.errors import one_sentence


def main():
    with one_sentence("e4t"):  # from the first import on
        from .cli.app import app

        app()


if __name__ == "__main__":
    main()
