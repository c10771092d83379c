# make demo and make test are all that a newcomer needs.
export CGO_ENABLED = 0
VERSION ?= dev
GOFLAGS_BUILD = -trimpath -ldflags "-s -w -X github.com/microsandbox-go/microsandbox/internal/version.build=$(VERSION)"
BENCH ?= coldstart
FUZZTIME ?= 30s
SOAK ?= 1

.PHONY: build demo test test-race bench soak lint fuzz clean

build: ## the binaries, in bin/
	go build $(GOFLAGS_BUILD) -o bin/ ./cmd/msb ./cmd/msb-runner ./cmd/msb-agent ./cmd/msb-server

demo: build ## run a program in a sandbox
	@if [ -x /usr/bin/python3 ]; then \
		bin/msb run host -- python3 -c 'import os, platform; print("hello from", platform.system(), platform.release(), "- pid", os.getpid(), "- files of /root:", os.listdir("/root"))'; \
	else \
		bin/msb run host -- sh -c 'echo "hello from $$(uname -sr) - pid $$$$ - files of /root: $$(ls -A /root | wc -l)"'; \
	fi

test: build ## all tests
	go test -timeout 30m ./...

test-race: build
	CGO_ENABLED=1 go test -race . ./sandbox/... ./internal/console/... ./internal/sshserver/... ./internal/agentproto/... ./internal/agentclient/... ./internal/agent/... ./internal/network/... ./internal/state/... ./internal/runner/... ./internal/image/...

bench: build ## side by side with peers; BENCH=coldstart, disk, density, …
	cd bench && go run . -msb ../bin/msb $(BENCH)

soak: build ## the long runs; SOAK=0.1 is a tenth of them
	MSB_SOAK=$(SOAK) go test -count=1 -timeout 3h -run 'Soak|KillNine|OneOfAName|Storm|GivenBack|ProjectConcurrency' -v . ./internal/e2e/...

lint:
	gofmt -l . | (! grep .)
	go vet ./...
	@if command -v golangci-lint >/dev/null; then golangci-lint run; else echo "golangci-lint is not installed: skipped"; fi

fuzz: ## each fuzz target for FUZZTIME
	@set -e; for p in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$p 2>/dev/null | grep '^Fuzz'); do \
			echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p; \
		done; done

clean:
	rm -rf bin
