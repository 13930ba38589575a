# Everything that a user or a maintainer starts. `make help` lists it. Nothing but Python 3.11 and make has to be there.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
CLUSTER := tests/cluster/cluster.sh
SAMPLE := manifests/samples/trainingjob.yaml
TOOLS := kube-apiserver etcd kubectl helm promtool
PYTEST := $(BIN)/python -m pytest

##@ Use

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: .venv/.trainer ## clean machine -> a model trained from the sample TrainingJob, here
	@$(BIN)/m3 run -f $(SAMPLE)

.PHONY: notebooks
notebooks: .venv/.dev ## run the notebooks on the runs of this machine; copies with their pictures in notebooks/executed-*
	@$(BIN)/jupyter execute --output='executed-{notebook_name}' notebooks/0*.ipynb

.PHONY: cluster-up
cluster-up: ## a kind cluster with KubeRay, MLflow and M3 installed (KUBECONFIG is printed last)
	@$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## remove every trace of that cluster
	@$(CLUSTER) down

.PHONY: images
images: ## build m3-operator and m3-trainer
	@$(CLUSTER) images

##@ Test

.PHONY: test
test: .venv/.dev ## clean machine -> unit, chart and integration tests pass
	@tests/cluster/tools.sh $(TOOLS)
	@$(PYTEST)

.PHONY: test-unit
test-unit: .venv/.dev ## unit tests alone: seconds
	@$(PYTEST) tests/unit

.PHONY: test-e2e
test-e2e: .venv/.dev cluster-up ## the main job on the real cluster
	@eval "$$($(CLUSTER) env)" && $(PYTEST) tests/e2e

.PHONY: test-faults
test-faults: .venv/.dev ## every fault plan, beside a naive operator's -> benchmarks/results/faults.json (20 min; ARGS='--workload=retry --kind=drop' for some)
	@tests/cluster/tools.sh kube-apiserver etcd kubectl helm
	@$(PYTEST) tests/integration/faults/every_plan.py -s $(ARGS)

.PHONY: coverage
coverage: .venv/.dev ## line and branch coverage of unit and integration tests
	@tests/cluster/tools.sh $(TOOLS)
	@$(BIN)/coverage erase && $(BIN)/coverage run -m pytest && $(BIN)/coverage combine -q && $(BIN)/coverage report

##@ Maintain

.PHONY: generate
generate: .venv/.dev ## write generated files: CRDs, field reference, the charts' tables of values
	@$(BIN)/python -m m3_operator.crdgen
	@$(BIN)/python charts/readme.py

.PHONY: format
format: .venv/.dev ## format and mend what can be mended
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix-only --quiet .

.PHONY: verify
verify: .venv/.dev ## format, lint, types, layers, generated files current
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports
	@$(BIN)/python -m m3_operator.crdgen --check
	@$(BIN)/python charts/readme.py --check

.PHONY: lock
lock: .venv/.uv ## write the hashed locks from pyproject.toml
	@requirements/lock.sh

##@ Measure

.PHONY: bench-overhead
bench-overhead: .venv/.dev ## m3 run of the sample against the same training as a bare scikit-learn script
	@$(BIN)/python benchmarks/overhead.py

.PHONY: bench-logging
bench-logging: .venv/.dev ## a fitted model into MLflow and its registry: ours against MLflow's defaults
	@$(BIN)/python benchmarks/log_and_register.py

.PHONY: bench-windows
bench-windows: .venv/.dev ## the Handbook's window columns from its raw ones against pandas' rolling, on one core (2 min)
	@$(BIN)/python benchmarks/windows.py

.PHONY: choose-fraud
choose-fraud: .venv/.dev ## how manifests/samples/fraud.yaml and fraud-fast.yaml were chosen, on weeks before those that judge them (10 min)
	@$(BIN)/python benchmarks/choose_fraud.py

.PHONY: bench-handbook
bench-handbook: .venv/.dev ## the Handbook's four folds: its best published rows and the shipped fraud configuration, five seeds (12 min)
	@$(BIN)/python benchmarks/protocol_b.py

.PHONY: bench-fast
bench-fast: .venv/.dev ## the fast preset beside scikit-learn's default forest, on the Handbook's four folds (3 min)
	@$(BIN)/python benchmarks/fast.py

.PHONY: bench-pipeline
bench-pipeline: .venv/.dev ## load, features, fit and evaluate of five months beside pandas and scikit-learn, on one core (10 min)
	@$(BIN)/python benchmarks/pipeline.py

.PHONY: bench-scaling
bench-scaling: .venv/.dev ## forest, folds and boosting on 1 to 4 nodes of Ray's own test cluster (5 min)
	@$(BIN)/python benchmarks/scaling.py

.PHONY: bench-outofcore
bench-outofcore: .venv/.dev ## data of 2.6 times the memory limit, within a cgroup of that limit (root; 10 GiB of memory for its peer; 10 min)
	@$(BIN)/python benchmarks/outofcore.py

.PHONY: bench-operator
bench-operator: .venv/.dev ## our operator beside Kubeflow Trainer and kopf's tutorial, then whole jobs beside plain RayJobs (40 min)
	@$(BIN)/python benchmarks/operator/run.py --only throughput,start_and_rest,restart,scale,recovery
	@$(CLUSTER) up
	@eval "$$($(CLUSTER) env)" && $(BIN)/python benchmarks/operator/run.py --only apply_to_complete,warm_cluster

# --- the environment: stamps, so that nothing is installed twice -------------------------------------------------------

.venv/.uv: requirements/uv.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer must be installed, as $(PYTHON) (or: make PYTHON=/path/to/python3)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) must be Python 3.11 or newer, is $$($(PYTHON) -V)" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

# Without build isolation: the build's own requirements are hashed too. Compiled here, once: uncompiled, MLflow and scikit-learn
# take seven seconds to import instead of three, at the first start and, with PYTHONDONTWRITEBYTECODE set, at every one.
INSTALL = $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/build.txt -r $(1) && $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .

.venv/.trainer: .venv/.uv requirements/laptop.txt requirements/build.txt pyproject.toml
	@echo "installing the locked dependencies into .venv …"
	@$(call INSTALL,requirements/laptop.txt)
	@touch $@

.venv/.dev: .venv/.uv requirements/dev.txt requirements/build.txt pyproject.toml
	@echo "installing the locked dependencies, with those of the tests, into .venv …"
	@$(call INSTALL,requirements/dev.txt)
	@touch $@ .venv/.trainer
