"""``python -m pixvoice`` is the ``pixvoice`` command."""

from pixvoice.cli import main

if __name__ == "__main__":
    main()
