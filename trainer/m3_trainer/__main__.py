"""`python -m m3_trainer`: the same as `m3`; the entrypoint of every job in the cluster is `python -m m3_trainer job`."""

import sys


def main() -> None:
    if sys.argv[1:2] == [
        "job"
    ]:  # not by way of `m3`, whose parser takes longer to import than the supervisor takes to start
        from m3_trainer import supervisor

        sys.exit(supervisor.main(sys.argv[2:]))
    from m3_trainer.cli.main import main as m3

    m3()


if __name__ == "__main__":
    main()
