"""One schema on both sides: the operator's TrainingJob and what `m3` reads of it."""

import subprocess
import sys

from m3_operator.api.v1alpha1 import TrainingJobSpec
from m3_trainer import files
from m3_trainer.config import EXECUTION_FIELDS, WORKLOAD_FIELDS

LIGHT = "import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"


def test_each_field_of_the_spec_is_of_the_workload_or_of_its_execution() -> None:
    fields = {field.alias or name for name, field in TrainingJobSpec.model_fields.items()}
    assert fields == WORKLOAD_FIELDS | EXECUTION_FIELDS
    assert not WORKLOAD_FIELDS & EXECUTION_FIELDS


def test_the_workload_a_laptop_runs_is_the_one_that_the_job_receives() -> None:
    job = files.read_job("manifests/samples/trainingjob.yaml")
    document = files.read_document("manifests/samples/trainingjob.yaml")
    assert TrainingJobSpec.parse(document["spec"]).workload == job.workload


def imported_by(module: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(module=module)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_operators_api_imports_nothing_that_its_image_lacks() -> None:
    assert not imported_by("m3_operator.api.v1alpha1") & {"sklearn", "mlflow", "ray", "pandas", "numpy"}


def test_help_and_completion_do_not_wait_for_the_libraries_of_training() -> None:
    assert not imported_by("m3_trainer.cli.main") & {"sklearn", "mlflow", "ray", "pandas", "numpy"}
