# Each target makes its own virtual environment; README spells the commands out without make.
PYTHON ?= python3
VENV ?= .venv
PLUGINS = $(foreach name,softmax cnn inception,-e "plugins/medkit-$(name)[tensorflow]")
SOURCES = pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)

.PHONY: demo test check docs soak bench fuzz backends torch jax clean

demo: $(VENV)/demo-installed
	$(VENV)/bin/python -m medkit demo

test: $(VENV)/test-installed
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests plugins examples

check: $(VENV)/test-installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/test-installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet

soak: $(VENV)/test-installed
	MEDKIT_KILLS=50 $(VENV)/bin/python -m pytest tests/test_kills.py -v -k "normalise or append"
	MEDKIT_KILLS=20 $(VENV)/bin/python -m pytest tests/test_kills.py -v -m "soak or not soak" -k "not normalise and not append"
	MEDKIT_KILLS=30 $(VENV)/bin/python -m pytest tests/test_archive_faults.py -v -k killed
	MEDKIT_KILLS=30 $(VENV)/bin/python -m pytest tests/test_push_kills.py -v -m soak
	$(VENV)/bin/python -m pytest tests/test_cli_predict.py -v -m soak
	$(VENV)/bin/python -m pytest tests/test_fetch_kills.py -v -s -m soak
	MEDKIT_KILLS=1 $(VENV)/bin/python -m pytest tests/test_conformance.py plugins -v -m soak
	$(VENV)/bin/python -m pytest tests/test_scaffolding.py tests/test_plugin_management.py -v -m soak

bench: $(VENV)/test-installed
	for script in $(filter-out benchmarks/trees.py benchmarks/plugin_tutorial.py,$(wildcard benchmarks/*.py)); do \
	  $(VENV)/bin/python $$script || exit 1; done

# Twenty minutes on the header reader; atheris has no wheels for every Python.
FUZZ_CORPUS ?= $(or $(TMPDIR),/tmp)/medkit-fuzz
fuzz: $(VENV)/test-installed
	$(VENV)/bin/python -m pip install -q atheris
	NUMBA_DISABLE_JIT=1 $(VENV)/bin/python fuzz/headers.py $(FUZZ_CORPUS) -max_total_time=1200 -timeout=10

# The trainers without TensorFlow, on the other two backends of Keras; then all three compared.
# TensorFlow lies beside the environment, so that nothing finds it that is not shown the way.
backends: $(VENV)-backends/tensorflow/installed
	KERAS_BACKEND=jax $(VENV)-backends/bin/python -m pytest plugins -m "not backends"
	KERAS_BACKEND=torch $(VENV)-backends/bin/python -m pytest plugins -m "not backends"
	PYTHONPATH=$(VENV)-backends/tensorflow $(VENV)-backends/bin/python -m pytest plugins -m backends

# Trainers that need PyTorch or JAX and no Keras: an example, and what `plugins new` writes.
torch: $(VENV)-backends/installed
	$(VENV)-backends/bin/python -m pytest examples/medkit-torch-resnet tests/test_scaffolding.py -m torch

jax: $(VENV)-backends/installed
	$(VENV)-backends/bin/python -m pytest tests/test_scaffolding.py -m jax

clean:
	rm -rf $(VENV) $(VENV)-backends demo-workspace build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo-installed: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e ".[demo]" $(PLUGINS)
	touch $@

$(VENV)/test-installed: $(VENV)/bin/python $(SOURCES)
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e ".[demo,test]" $(PLUGINS)
	touch $@

$(VENV)-backends/installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)-backends
	$(VENV)-backends/bin/python -m pip install -q -c constraints.txt -e ".[test]" \
	  $(foreach name,softmax cnn inception,-e plugins/medkit-$(name)) jax torch==2.13.0
	touch $@

$(VENV)-backends/tensorflow/installed: $(VENV)-backends/installed
	$(VENV)-backends/bin/python -m pip install -q -c constraints.txt \
	  --target $(VENV)-backends/tensorflow --upgrade "tensorflow>=2.20,<2.22"
	touch $@
