# Everything a person or CI does here, by name. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Where torch comes from; for a CPU build on Linux without CUDA downloads: make setup TORCH_ARGS="--index-url <PyTorch's CPU index>"
TORCH_ARGS ?=
RUN_ROOT ?= runs
VARIANT ?= cpu
REGISTRY ?= ghcr.io/pixelis
GIT_SHA ?= $(shell git rev-parse HEAD)
GIT_SHA := $(GIT_SHA)
bin := $(VENV)/bin
# What torch, faiss and bitsandbytes need and every image has anyway: not repeated in images/gpu.lock.
IN_BASE := filelock fsspec jinja2 markupsafe mpmath networkx numpy packaging setuptools sympy typing-extensions

.DEFAULT_GOAL := help
.PHONY: help setup demo test check unit e2e e2e-docker compile images render validate-manifests manifests-config lock clean

help: ## List the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or 3.12 is needed, this is " + sys.version.split()[0]) if not (3, 11) <= sys.version_info[:2] <= (3, 12) else None'
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(bin)/python -m pip install --quiet --disable-pip-version-check $(TORCH_ARGS) $(TORCH)
	$(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

setup: $(VENV)/.ready ## Make the virtual environment with the locked versions

demo: setup ## Run the whole pipeline on the digital twin and leave the service answering (about a quarter of an hour)
	$(bin)/pixelis run --run-root $(RUN_ROOT)

test: setup check unit e2e ## Lint, types, layers, unit tests and one real run at the smallest size

check: setup ## Lint, format, types, layers
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

unit: setup ## Unit tests
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n 2 --dist loadfile -m "not e2e and not docker"

e2e: setup ## The pipeline at the smallest size: run, gate's branches, forced failure, resume
	$(bin)/python -m pytest -m e2e

e2e-docker: setup images ## Build the images, look into them, and run the smallest pipeline in them: kill, resume, promote, serve, stop
	PIXELIS_DOCKER_REQUIRED=1 $(bin)/python -m pytest -m docker tests/images tests/e2e

compile: setup ## Compile every profile to KFP's IR YAML under build/
	mkdir -p build
	for profile in twin gpu-3b gpu-7b; do $(bin)/pixelis compile --profile $$profile --output build/pixelis-$$profile.yaml || exit 1; done

images: ## Build the images: VARIANT (cpu, gpu), BASE_IMAGE, TORCH_INDEX (empty: pip's own settings), REGISTRY, DOCKER_ARGS
	for target in base learning; do docker build $(DOCKER_ARGS) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --build-arg VARIANT=$(VARIANT) \
	  $(if $(filter undefined,$(origin TORCH_INDEX)),,--build-arg TORCH_INDEX="$(TORCH_INDEX)") \
	  -f images/base/Dockerfile --target $$target -t pixelis-$$target:$(VARIANT) . || exit 1; done
	for family in data train serve; do docker build $(DOCKER_ARGS) --build-arg VARIANT=$(VARIANT) --build-arg GIT_SHA=$(GIT_SHA) \
	  -f images/$$family/Dockerfile -t $(REGISTRY)/pixelis-$$family:$(shell echo $(GIT_SHA) | cut -c1-12)-$(VARIANT) . || exit 1; done
	docker image ls --filter label=org.opencontainers.image.revision=$(GIT_SHA)

render: setup ## Render the Kubernetes overlays to YAML under build/
	mkdir -p build
	for overlay in local gpu; do $(bin)/python -m pipelines.manifests render manifests/overlays/$$overlay > build/manifests-$$overlay.yaml || exit 1; done

validate-manifests: setup ## Check every Kubernetes object: schemas, policy, alerts
	$(bin)/python -m pytest tests/manifests

manifests-config: setup ## Rewrite the ConfigMaps that hold the service's configuration
	$(bin)/python -m pipelines.manifests config

lock: ## Resolve exact versions with hashes (torch left out: its CPU and CUDA wheels differ; cv2 comes headless)
	uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras --no-header --no-annotate \
	  --no-emit-package torch --no-emit-package opencv-python -o requirements.lock pyproject.toml
	uv pip compile --universal --generate-hashes --python-version 3.11 --no-header --no-annotate -c requirements.lock \
	  --extra serving --extra ocr --extra lmdb --extra gpu --extra cluster \
	  --no-emit-package torch --no-emit-package opencv-python -o images/requirements.lock pyproject.toml
	printf '%s\n' "$(TORCH)" faiss-gpu "bitsandbytes$$(sed -n 's/^bitsandbytes\(==[^ ]*\).*/\1/p' images/requirements.lock)" | \
	  uv pip compile --no-config --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate \
	  --only-binary :all: -c images/requirements.lock $(foreach name,$(IN_BASE),--no-emit-package $(name)) -o images/gpu.lock -

clean: ## Remove what can be made again (not runs)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
