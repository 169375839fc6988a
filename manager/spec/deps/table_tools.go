package deps

// gnu are the names of architectures that most vendors use beside Go's.
var gnu = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// tools are programs that their vendors publish. Those without a list of checksums
// can be had in the versions whose sums are pinned here.
var tools = []*entry{
	{
		name: "act", kind: TypeTool, programs: []string{"act"},
		versions: versions{fallback: "0.2.82", open: complete},
		how: archive{
			url:     "https://github.com/nektos/act/releases/download/v{v}/act_Linux_{target}.tar.gz",
			targets: map[string]string{"amd64": "x86_64", "arm64": "arm64"},
			list:    "https://github.com/nektos/act/releases/download/v{v}/checksums.txt",
			sums: map[string]sums{"0.2.82": {
				"amd64": "76645c0bbe4bb69a8f0ba3caefa681b2f4c04babd4679c67861af9a276a3561f",
				"arm64": "ebf375e700f6f2c139fe3c5508af2ec85032a75e7d29f6a388a58c0fab76e951",
			}},
			install: fromTar("act"),
		},
	},
	{
		name: "bat", kind: TypeTool, programs: []string{"bat"},
		versions: versions{fallback: "0.25.0"},
		how: archive{
			url:     "https://github.com/sharkdp/bat/releases/download/v{v}/bat-v{v}-{target}-unknown-linux-musl.tar.gz",
			targets: gnu,
			sums: map[string]sums{"0.25.0": {
				"amd64": "93f47d76abe328c402ef712e9ac92aa6d5bc84d5adcbcaf0bbc5665e5275a941",
				"arm64": "ee0f12cf6006a79cf4ccf75d2ddcf9f6ba124644503244b1af909c2f72a2a9f7",
			}},
			install: fromTar("bat-v{v}-{target}-unknown-linux-musl/bat"),
		},
	},
	{
		name: "buf", kind: TypeTool, programs: []string{"buf"},
		versions: versions{fallback: "1.47.0", open: complete},
		how: archive{
			url: "https://github.com/bufbuild/buf/releases/download/v{v}/buf-Linux-{target}", targets: gnu,
			list: "https://github.com/bufbuild/buf/releases/download/v{v}/sha256.txt", install: program("buf"),
		},
	},
	{
		name: "delta", kind: TypeTool, programs: []string{"delta"},
		versions: versions{fallback: "0.18.2"},
		how: archive{
			url:     "https://github.com/dandavison/delta/releases/download/{v}/delta-{v}-{target}-unknown-linux-gnu.tar.gz",
			targets: gnu,
			sums: map[string]sums{"0.18.2": {
				"amd64": "99607c43238e11a77fe90a914d8c2d64961aff84b60b8186c1b5691b39955b0f",
				"arm64": "adf7674086daa4582f598f74ce9caa6b70c1ba8f4a57d2911499b37826b014f9",
			}},
			install: fromTar("delta-{v}-{target}-unknown-linux-gnu/delta"),
		},
	},
	{
		name: "fd", kind: TypeTool, programs: []string{"fd"},
		versions: versions{fallback: "10.2.0"},
		how: archive{
			url:     "https://github.com/sharkdp/fd/releases/download/v{v}/fd-v{v}-{target}.tar.gz",
			targets: map[string]string{"amd64": "x86_64-unknown-linux-musl", "arm64": "aarch64-unknown-linux-gnu"},
			sums: map[string]sums{"10.2.0": {
				"amd64": "d9bfa25ec28624545c222992e1b00673b7c9ca5eb15393c40369f10b28f9c932",
				"arm64": "6de8be7a3d8ca27954a6d1e22bc327af4cf6fc7622791e68b820197f915c422b",
			}},
			install: fromTar("fd-v{v}-{target}/fd"),
		},
	},
	{
		name: "fzf", kind: TypeTool, programs: []string{"fzf"},
		versions: versions{fallback: "0.62.0", open: complete},
		how: archive{
			url:  "https://github.com/junegunn/fzf/releases/download/v{v}/fzf-{v}-linux_{arch}.tar.gz",
			list: "https://github.com/junegunn/fzf/releases/download/v{v}/fzf_{v}_checksums.txt", install: fromTar("fzf"),
		},
	},
	{
		name: "gh", kind: TypeTool, programs: []string{"gh"},
		versions: versions{fallback: "2.68.1", open: complete},
		how: archive{
			url:  "https://github.com/cli/cli/releases/download/v{v}/gh_{v}_linux_{arch}.tar.gz",
			list: "https://github.com/cli/cli/releases/download/v{v}/gh_{v}_checksums.txt", install: fromTar("gh_{v}_linux_{arch}/bin/gh"),
		},
	},
	{
		name: "golangci-lint", kind: TypeTool, programs: []string{"golangci-lint"}, requires: []string{"go"},
		versions: versions{fallback: "2.12.2", open: complete},
		how: archive{
			url:  "https://github.com/golangci/golangci-lint/releases/download/v{v}/golangci-lint-{v}-linux-{arch}.tar.gz",
			list: "https://github.com/golangci/golangci-lint/releases/download/v{v}/golangci-lint-{v}-checksums.txt",
			sums: map[string]sums{"2.12.2": {
				"amd64": "8df580d2670fed8fa984aac0507099af8df275e665215f5c7a2ae3943893a553",
				"arm64": "44cd40a8c76c86755375adfeea52cfd3533cb43d7bd647771e0ae065e166df3a",
			}},
			install: fromTar("golangci-lint-{v}-linux-{arch}/golangci-lint"),
		},
	},
	{
		name: "goreleaser", kind: TypeTool, programs: []string{"goreleaser"},
		versions: versions{fallback: "2.16.0", open: complete},
		how: archive{
			url:     "https://github.com/goreleaser/goreleaser/releases/download/v{v}/goreleaser_Linux_{target}.tar.gz",
			targets: map[string]string{"amd64": "x86_64", "arm64": "arm64"},
			list:    "https://github.com/goreleaser/goreleaser/releases/download/v{v}/checksums.txt",
			sums: map[string]sums{"2.16.0": {
				"amd64": "eaae05b5eba07533bd0f06846b68c808399504784df00c62eb219541fc04e5e2",
				"arm64": "0102d974373fcdeb77042d1f5897caffa193be36620fdc6c1da43a01ef8e10d3",
			}},
			install: fromTar("goreleaser"),
		},
	},
	{
		name: "helm", kind: TypeTool, programs: []string{"helm"}, asks: []string{"version", "--short"},
		versions: versions{fallback: "3.19.0", open: complete},
		how: archive{
			url: "https://get.helm.sh/helm-v{v}-linux-{arch}.tar.gz", list: "https://get.helm.sh/helm-v{v}-linux-{arch}.tar.gz.sha256sum",
			sums: map[string]sums{"3.19.0": {
				"amd64": "a7f81ce08007091b86d8bd696eb4d86b8d0f2e1b9f6c714be62f82f96a594496",
				"arm64": "440cf7add0aee27ebc93fada965523c1dc2e0ab340d4348da2215737fc0d76ad",
			}},
			install: fromTar("linux-{arch}/helm"), page: "https://helm.sh/docs/intro/install",
		},
	},
	{
		name: "kubectl", kind: TypeTool, programs: []string{"kubectl"}, asks: []string{"version", "--client"},
		versions: versions{fallback: "1.37.2", open: complete},
		how: archive{
			url: "https://dl.k8s.io/release/v{v}/bin/linux/{arch}/kubectl", list: "https://dl.k8s.io/release/v{v}/bin/linux/{arch}/kubectl.sha256",
			install: program("kubectl"), page: "https://kubernetes.io/docs/tasks/tools",
		},
	},
	{
		name: "lazygit", kind: TypeTool, programs: []string{"lazygit"},
		versions: versions{fallback: "0.56.0", open: complete},
		how: archive{
			url:     "https://github.com/jesseduffield/lazygit/releases/download/v{v}/lazygit_{v}_linux_{target}.tar.gz",
			targets: map[string]string{"amd64": "x86_64", "arm64": "arm64"},
			list:    "https://github.com/jesseduffield/lazygit/releases/download/v{v}/checksums.txt",
			sums: map[string]sums{"0.56.0": {
				"amd64": "ced13c2ae074bbf6c201bc700ee2971e193b811c3b2ae0ed4d00d6225c6c9ab7",
				"arm64": "57503b0074beaaeaac35da2d462d1ddf2af52d8c822766c935ea5515ba21875c",
			}},
			install: fromTar("lazygit"),
		},
	},
	{
		name: "opentofu", kind: TypeTool, programs: []string{"tofu"},
		versions: versions{fallback: "1.9.0", open: complete},
		how: archive{
			url:  "https://github.com/opentofu/opentofu/releases/download/v{v}/tofu_{v}_linux_{arch}.tar.gz",
			list: "https://github.com/opentofu/opentofu/releases/download/v{v}/tofu_{v}_SHA256SUMS", install: fromTar("tofu"),
		},
	},
	{
		name: "protoc", kind: TypeTool, programs: []string{"protoc"}, system: []string{"unzip"},
		versions: versions{fallback: "33.2"},
		how: archive{
			url:     "https://github.com/protocolbuffers/protobuf/releases/download/v{v}/protoc-{v}-linux-{target}.zip",
			targets: map[string]string{"amd64": "x86_64", "arm64": "aarch_64"},
			sums: map[string]sums{"33.2": {
				"amd64": "b24b53f87c151bfd48b112fe4c3a6e6574e5198874f38036aff41df3456b8caf",
				"arm64": "706662a332683aa2fffe1c4ea61588279d31679cd42d91c7d60a69651768edb8",
			}},
			install: []string{"unzip -q " + download + " 'bin/*' 'include/*' -d /usr/local", "chmod -R a+rX /usr/local/bin/protoc /usr/local/include"},
		},
	},
	{
		name: "ripgrep", kind: TypeTool, programs: []string{"rg"},
		versions: versions{fallback: "14.1.1", open: complete},
		how: archive{
			url:     "https://github.com/BurntSushi/ripgrep/releases/download/{v}/ripgrep-{v}-{target}.tar.gz",
			list:    "https://github.com/BurntSushi/ripgrep/releases/download/{v}/ripgrep-{v}-{target}.tar.gz.sha256",
			targets: map[string]string{"amd64": "x86_64-unknown-linux-musl", "arm64": "aarch64-unknown-linux-gnu"},
			sums: map[string]sums{"14.1.1": {
				"amd64": "4cf9f2741e6c465ffdb7c26f38056a59e2a2544b51f7cc128ef28337eeae4d8e",
				"arm64": "c827481c4ff4ea10c9dc7a4022c8de5db34a5737cb74484d62eb94a95841ab2f",
			}},
			install: fromTar("ripgrep-{v}-{target}/rg"),
		},
	},
	{
		name: "sqlc", kind: TypeTool, programs: []string{"sqlc"}, asks: []string{"version"},
		versions: versions{fallback: "1.30.0"},
		how: archive{
			url: "https://github.com/sqlc-dev/sqlc/releases/download/v{v}/sqlc_{v}_linux_{arch}.tar.gz",
			sums: map[string]sums{"1.30.0": {
				"amd64": "468aecee071bfe55e97fcbcac52ea0208eeca444f67736f3b8f0f3d6a106132e",
				"arm64": "dd9ab43b022ba3b3402054f99d7ae6e5efea33c949e869c3c66b214415e0c82d",
			}},
			install: fromTar("sqlc"),
		},
	},
	{
		name: "task", kind: TypeTool, programs: []string{"task"},
		versions: versions{fallback: "3.40.0", open: complete},
		how: archive{
			url:  "https://github.com/go-task/task/releases/download/v{v}/task_linux_{arch}.tar.gz",
			list: "https://github.com/go-task/task/releases/download/v{v}/task_checksums.txt", install: fromTar("task"),
		},
	},
	{
		name: "terraform", kind: TypeTool, programs: []string{"terraform"}, system: []string{"unzip"},
		versions: versions{fallback: "1.10.0", open: complete},
		how: archive{
			url:     "https://releases.hashicorp.com/terraform/{v}/terraform_{v}_linux_{arch}.zip",
			list:    "https://releases.hashicorp.com/terraform/{v}/terraform_{v}_SHA256SUMS",
			install: fromZip("terraform"), page: "https://developer.hashicorp.com/terraform/install",
		},
	},
	{
		name: "terragrunt", kind: TypeTool, programs: []string{"terragrunt"},
		versions: versions{fallback: "1.0.2", open: complete},
		how: archive{
			url:  "https://github.com/gruntwork-io/terragrunt/releases/download/v{v}/terragrunt_linux_{arch}",
			list: "https://github.com/gruntwork-io/terragrunt/releases/download/v{v}/SHA256SUMS", install: program("terragrunt"),
		},
	},
}
