"""The two images, as they were built for this cluster."""

import json
import os
import subprocess

import pytest

IMAGES = ("m3-operator:dev", "m3-trainer:dev")
TRAINER_MB = 600
BUILD_TOOLS = ("pip", "gcc", "cc", "make", "git", "hatchling")


@pytest.fixture(scope="module")
def docker(cluster):
    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, env=cluster.environment, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


# With images from a registry (M3_IMAGE_REPOSITORY) there may be no Docker here, and what is in them was tested where they
# were built.
if "M3_IMAGE_REPOSITORY" not in os.environ:

    @pytest.mark.parametrize("image", IMAGES)
    def test_an_image_runs_as_a_numeric_user_that_is_not_root(docker, image):
        (inspected,) = json.loads(docker("image", "inspect", image))
        user = inspected["Config"]["User"].split(":")[0]
        assert user.isdecimal()
        assert int(user) > 0

    @pytest.mark.parametrize("image", IMAGES)
    def test_an_image_has_no_build_tools(docker, image):
        looked_for = f"for tool in {' '.join(BUILD_TOOLS)}; do command -v $tool || true; done"
        assert docker("run", "--rm", "--network=none", "--entrypoint=/bin/sh", image, "-c", looked_for) == ""

    def test_the_operators_image_carries_nothing_of_training(docker):
        looked_for = (
            "import importlib.util as u; print([m for m in ('ray', 'sklearn', 'mlflow', 'pandas') if u.find_spec(m)])"
        )
        found = docker("run", "--rm", "--network=none", "--entrypoint=python", "m3-operator:dev", "-c", looked_for)
        assert found == "[]\n"

    def test_the_trainers_image_is_under_600_mb_compressed(cluster):
        # gzip -1 over the whole image: a few per cent more than what a registry would hold
        count = "docker save m3-trainer:dev | gzip -1 | wc -c"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", count],
            capture_output=True, text=True, env=cluster.environment, check=True, timeout=300,
        )  # fmt: skip
        assert int(done.stdout) / 1e6 < TRAINER_MB
