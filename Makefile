# The one door: `make demo`, `make test`, `make check`, `make bench`, `make hil`.
# Two environments: .venv has everything, .venv-runtime what a board has (no torch) and its tests.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
PIP = -m pip install --no-compile --quiet --disable-pip-version-check -c $(CONSTRAINTS)
JOBS ?= 2
KILLS ?= 20
# two test workers that each start a thread a core would wait for each other
test check thorough: export OMP_NUM_THREADS = 1

.PHONY: demo test thorough check lint types bench bench-cost bench-distill bench-quant bench-peers litert hil clean
.DELETE_ON_ERROR:

demo: .venv/installed ## fit the default student for a Raspberry Pi 4, then prove it with the runtime
	.venv/bin/edgedistill fit --profile rpi4 --out build/demo
	.venv-runtime/bin/edgedistill-run bench build/demo/model.edge --max-seconds 10

test: lint types .venv/installed ## everything but boards and TFLite files
	.venv/bin/python -m pytest -n $(JOBS) --dist loadgroup --ignore tests/hil --ignore tests/litert --ignore tests/runtime
	tests/offline.sh .venv-runtime/bin/python -m pytest -n $(JOBS) tests/runtime

thorough: .venv/installed ## what `make test` tries a few times, many times: kills and trials
	.venv/bin/python -m pytest -n $(JOBS) --dist loadgroup -m repeated --kills $(KILLS) tests/end_to_end tests/runtime

check: lint types ## the fast inner loop
	.venv/bin/python -m pytest -n $(JOBS) --ignore tests/hil --ignore tests/litert -m "not slow and not end_to_end" -q

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache

types: .venv/installed
	.venv/bin/mypy

bench: .venv/installed ## timings, as ratios against the bare engine; JSON under benchmarks/
	.venv/bin/python benchmarks/runtime_overhead.py --python .venv-runtime/bin/python

bench-cost: .venv/installed ## the cost model on networks that it never saw: about fifteen minutes, nothing else running
	.venv/bin/python benchmarks/published_rates.py
	.venv/bin/edgedistill fit --profile host --out build/bench-cost
	.venv/bin/python benchmarks/cost.py build/bench-cost/model.edge

bench-distill: .venv/installed ## what distillation reaches, with controls: about three hours
	.venv/bin/python examples/tweets/prepare.py
	.venv/bin/python benchmarks/distillation.py
	for example in mnist spoken_digits keywords watch; do .venv/bin/python examples/$$example/prepare.py || exit; done
	.venv/bin/python benchmarks/kinds.py
	.venv/bin/python benchmarks/cached_step.py

bench-quant: .venv/installed ## what each precision costs and brings, by family and kind of data: about an hour
	.venv/bin/python examples/tweets/prepare.py
	for example in mnist spoken_digits keywords watch; do .venv/bin/python examples/$$example/prepare.py || exit; done
	.venv/bin/python benchmarks/quantization.py

bench-peers: .venv/installed ## against transformers.Trainer and torchdistill (its own environment)
	.venv/bin/python examples/tweets/prepare.py
	.venv/bin/python benchmarks/peers/compare.py

litert: .venv/installed .venv-litert/installed .venv-tflite-runtime/installed ## TFLite files: made, quantized, and run by both engines
	.venv/bin/python -m pytest -n $(JOBS) --dist loadfile tests/litert --require-litert

hil: .venv/installed ## the emulated ARM boards (root on Debian, for qemu)
	.venv/bin/python -m pytest tests/hil --require-boards

.venv/installed: pyproject.toml runtime/pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	# the runtime first: pip 23 does not find the version that the host pins otherwise
	.venv/bin/python $(PIP) -e 'runtime[onnx,image,text,tflite]' -e '.[dev,datasets,tensorboard,tflite]'
	$(PYTHON) -m venv .venv-runtime
	.venv-runtime/bin/python $(PIP) -e 'runtime[onnx,image,text,tflite]' pytest pytest-xdist scipy
	touch $@

# litert-torch and tflite-runtime each exclude what .venv has; `fit` finds both by these names
.venv-litert/installed: constraints-litert.txt
	$(PYTHON) -m venv .venv-litert
	.venv-litert/bin/python -m pip install --quiet --disable-pip-version-check -c $< litert-torch torch
	touch $@

.venv-tflite-runtime/installed: Makefile
	$(PYTHON) -m venv .venv-tflite-runtime
	.venv-tflite-runtime/bin/python -m pip install --quiet --disable-pip-version-check tflite-runtime==2.14.0 'numpy<2'
	touch $@

clean:
	rm -rf .venv .venv-runtime .venv-litert .venv-tflite-runtime build dist
