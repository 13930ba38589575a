"""`python -m m3_trainer`: the same as `m3`; the entrypoint of every job in the cluster is `python -m m3_trainer job`."""

from m3_trainer.cli.main import main

if __name__ == "__main__":
    main()
