# Every target builds the environment it needs first, and only when its requirements have changed.
# PYTHON=/path/to/python3.11 names another interpreter, PYTEST_ARGS goes to pytest (-n 0: one process).

PYTHON ?= python3.11
PYTEST_ARGS ?=
# A process takes 1 GB; more than four would wait for the longest file.
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile

# RetinaNet first: the end-to-end detector begins with its backbone.
DEMO := retinanet_mf26m_shapes e2e_mf26m_shapes_320x240

.DEFAULT_GOAL := env
.PHONY: env env-official env-imagenet test test-official test-imagenet lint format docs drawings demo \
	results clean help

env: ## build .venv: torch, the onedl family of mmdet with a compiled mmcv, this project
	@$(call make_env,default)

env-official: ## build .venv-official: the same with the official family (mmcv 2.1.0, mmdet 3.3.0)
	@$(call make_env,official)

env-imagenet: ## build .venv-imagenet: with mmpretrain and torchvision (several GB)
	@$(call make_env,imagenet)

test: env ## run the tests
	.venv/bin/python $(PYTEST) $(PYTEST_ARGS)

test-official: env-official ## run the tests with the official family of mmdet distributions
	.venv-official/bin/python $(PYTEST) $(PYTEST_ARGS)

test-imagenet: env-imagenet ## run the tests of ImageNet training
	.venv-imagenet/bin/python -m pytest tests/imagenet $(PYTEST_ARGS)

lint: env ## check style, annotations, docstrings, formatting, the order of the rooms, and the scripts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache
	.venv/bin/shellcheck tools/*.sh .ci/run

format: env ## format the code and sort its imports
	.venv/bin/ruff check --select I --fix .
	.venv/bin/ruff format .

docs: env ## build the documentation site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

drawings: ## render docs/drawings/*.dot to docs/images/*.svg (needs graphviz)
	for drawing in docs/drawings/*.dot; do \
		dot -Tsvg "$$drawing" -o "docs/images/$$(basename "$$drawing" .dot).svg" || exit 1; \
	done

demo: env ## make the shapes data, train and test both detectors on it, draw what they found
	.venv/bin/python tools/make_shapes_dataset.py
	@for name in $(DEMO); do \
		.venv/bin/python tools/train.py configs/$$name.py && \
		.venv/bin/python tools/test.py work_dirs/$$name --out work_dirs/$$name/predictions.pkl && \
		.venv/bin/python tools/demo_pictures.py work_dirs/$$name work_dirs/$$name/predictions.pkl \
			|| exit; \
	done

results: env ## measure the tables of docs/results.md: hours on one core; DATA_ROOT=DIR is BCCD in COCO layout
	@test -n "$(DATA_ROOT)" || { \
		echo 'make results needs DATA_ROOT=DIR, BCCD in COCO layout: see docs/results.md' >&2; exit 1; }
	.venv/bin/python tools/results.py run --data-root "$(DATA_ROOT)"

check-exports: env ## export every detector of configs/ and compare it with PyTorch at real sizes (an hour)
	.venv/bin/python tools/check_exports.py

clean: ## remove the environments and caches; data, checkpoints and work directories stay
	rm -rf .venv .venv-official .venv-imagenet .pytest_cache .ruff_cache build site *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

define make_env
command -v $(PYTHON) >/dev/null || { \
	echo 'Python 3.11 is needed and "$(PYTHON)" is not found; install it, or name it by' \
		'`make PYTHON=/path/to/python3.11`.' >&2; exit 1; }; \
$(PYTHON) tools/dev/make_env.py $(1)
endef
