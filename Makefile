# make demo   train a score network on real images and compare samplers: tables, plots and grids in outputs/demo
# make paper  the paper's main table, ablation and analysis with the network in checkpoints/: docs/results.md
#             (half an hour on two cores; make paper-long, over five hours: the main table with 10,000 images)
# make test   run the tests, the linter and the type checker (make test OPTIMIZE=1: on code with JAX's optimizations, as users
#             run it, which take longer to make than they save here)
# They set up .venv first; a second run does not install again.
#
# make test-fast    the tests that start no processes, in some two minutes
# make docs         the site, into build/site/ (make docs-serve shows it at http://127.0.0.1:8000); its own .venv-docs
# make test-peers   compare with diffusers, and test torch and optional plugins, in an environment of their own, .venv-peers

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEERS_READY := .venv-peers/.ready
DOCS_READY := .venv-docs/.ready

.PHONY: demo paper paper-long test test-fast test-peers check docs docs-serve clean

demo: $(READY)
	$(BIN)/python train.py experiment=demo
	$(BIN)/python sample.py -m experiment=demo_sweep
	$(BIN)/python sample.py experiment=demo_picture
	$(BIN)/python -m eval.table outputs/demo/sweep

SHIPPED := checkpoint=checkpoints/fashion_mnist
paper: $(READY)
	$(BIN)/python -m eval.table paper=cifar10_vp $(SHIPPED) num_samples=1000 'paper.nfe=[5,10,15,20]' \
		run_dir=outputs/paper/cifar10_vp
	$(BIN)/python -m eval.table paper=cifar10_ablation $(SHIPPED) num_samples=1000 'paper.nfe=[5,10,20]' \
		run_dir=outputs/paper/cifar10_ablation
	$(BIN)/python -m eval.table paper=last_step $(SHIPPED) num_samples=1000 'paper.nfe=[5,10]' \
		run_dir=outputs/paper/last_step
	$(BIN)/python -m eval.analysis $(SHIPPED) run_dir=outputs/paper/network
	$(BIN)/python -m eval.analysis $(SHIPPED) run_dir=outputs/paper/network_edm ts_phase=rho ts_order=7
	$(BIN)/python -m eval.analysis problem=mixture num_samples=256 run_dir=outputs/paper/mixture
	$(BIN)/python -m docs.make_results outputs/paper docs

paper-long: $(READY)
	$(BIN)/python -m eval.table paper=cifar10_vp $(SHIPPED) num_samples=10000 run_dir=outputs/paper/cifar10_vp_10000

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal --fast

test-peers: $(PEERS_READY)
	OPTIMIZE=1 .venv-peers/bin/python -m pytest tests/peers tests/deis/sampler/test_torch*.py tests/deis/test_guidance.py \
		tests/test_docs.py tests/docs/test_notebooks.py tests/runs/test_sweeps.py tests/runs/test_log.py

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

MKDOCS := NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs
# the one on PyTorch is shown without results: torch is in .venv-peers alone, whose tests run it
NOTEBOOKS := $(patsubst %.py,build/%.md,$(filter-out notebooks/pytorch.py,$(wildcard notebooks/*.py)))
docs: $(DOCS_READY) $(NOTEBOOKS)
	$(MKDOCS) build --strict

docs-serve: $(DOCS_READY) $(NOTEBOOKS)
	$(MKDOCS) serve

build/notebooks/%.md: notebooks/%.py docs/notebooks.py | $(READY)
	$(BIN)/python -m docs.notebooks $< $@

clean:
	rm -rf .venv .venv-peers .venv-docs

$(READY): requirements.txt
$(PEERS_READY): requirements-peers.txt requirements-cluster.txt requirements.txt
$(DOCS_READY): requirements-docs.txt
$(READY) $(PEERS_READY) $(DOCS_READY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(if $(NO_DEPS),$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(NO_DEPS))
	touch $@

# these ask for torchvision, which does not fit every build of torch, and more of which the comparisons need nothing
$(PEERS_READY): NO_DEPS := torch-fidelity==0.4.0 pytorch-fid==0.3.0 k-diffusion==0.1.1.post1
