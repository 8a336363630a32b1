//! Makes the bindings against the DPDK that is installed (feature `link`): its ABI changes with every
//! long-term release, so bindings that were made elsewhere would be wrong somewhere.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=wrapper.h");
    #[cfg(feature = "link")]
    link::run();
}

#[cfg(feature = "link")]
mod link {
    use std::env;
    use std::path::PathBuf;

    /// Release of DPDK that the bindings were tried with, and the oldest that has all that they use.
    const OLDEST: &str = "22.11";

    /// What is used of DPDK, and nothing more.
    const FUNCTIONS: &[&str] = &[
        "rte_eal_init",
        "rte_eal_cleanup",
        "rte_eal_iova_mode",
        "rte_eal_get_physmem_size",
        "rte_strerror",
        "rte_version",
        "weft_rte_errno",
        "weft_clear_rte_errno",
        "rte_zmalloc_socket",
        "rte_free",
        "rte_malloc_dump_heaps",
        "rte_malloc_dump_stats",
        "rte_malloc_get_socket_stats",
        "rte_memzone_dump",
        "rte_dump_physmem_layout",
        "rte_mem_virt2iova",
        "rte_mem_virt2memseg",
        "rte_memseg_get_fd",
        "rte_memseg_get_fd_offset",
        "rte_memseg_walk",
        "rte_socket_count",
        "rte_socket_id_by_idx",
        "rte_bus_scan",
        "rte_devargs_add",
        "rte_dev_iterator_init",
        "rte_dev_iterator_next",
        "rte_dev_name",
        "rte_dev_numa_node",
        "rte_pci_dump",
        "rte_openlog_stream",
        "rte_log_cur_msg_loglevel",
        // Of the C library: a stream of DPDK's log that ends in a function of ours.
        "fopencookie",
        "fclose",
        "open_memstream",
        "fdopen",
    ];
    const TYPES: &[&str] =
        &["rte_memseg", "rte_malloc_socket_stats", "rte_iova_mode", "rte_devtype"];
    const VALUES: &[&str] = &["RTE_BAD_IOVA", "RTE_LOG_.*", "RTE_EAL_PMD_PATH", "SOCKET_ID_ANY"];

    /// The archives that a program of ours is made of, when linked statically. Their constructors register
    /// what they bring, so nothing in them is left out.
    const ARCHIVES: &[&str] = &["rte_bus_pci", "rte_pci", "rte_eal", "rte_telemetry", "rte_kvargs"];

    pub fn run() {
        let is_static = cfg!(feature = "static");
        let library = pkg_config::Config::new()
            .atleast_version(OLDEST)
            .cargo_metadata(false)
            .probe("libdpdk")
            .unwrap_or_else(|error| {
                panic!("DPDK {OLDEST} or newer is not installed (on Debian: apt-get install libdpdk-dev):\n{error}")
            });
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names the folder"));

        // pkg-config's word list has flags (`-include`, `-march`) that the headers cannot do without.
        let words = pkg_config_words(&["--cflags", "libdpdk"]);
        let wrappers = out.join("wrappers.c");
        let mut builder = bindgen::Builder::default()
            .header("wrapper.h")
            .clang_args(&words)
            .rust_edition(bindgen::RustEdition::Edition2024)
            .generate_comments(false)
            .layout_tests(true)
            .derive_debug(false)
            .default_enum_style(bindgen::EnumVariation::ModuleConsts)
            .wrap_static_fns(true)
            .wrap_static_fns_path(&wrappers)
            .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
        for name in FUNCTIONS {
            builder = builder.allowlist_function(name);
        }
        for name in TYPES {
            builder = builder.allowlist_type(name);
        }
        for name in VALUES {
            builder = builder.allowlist_var(name);
        }
        let bindings = builder.generate().unwrap_or_else(|error| {
            panic!("no bindings to DPDK (on Debian: apt-get install libclang-dev): {error}")
        });
        bindings.write_to_file(out.join("bindings.rs")).expect("write the bindings");

        let mut compiler = cc::Build::new();
        compiler.file(&wrappers).include(env::var_os("CARGO_MANIFEST_DIR").expect("by cargo"));
        for word in &words {
            compiler.flag(word);
        }
        compiler.compile("dpdk_wrappers");

        for path in &library.link_paths {
            println!("cargo:rustc-link-search=native={}", path.display());
        }
        // The library's own list has all that DPDK consists of, and the drivers of its busses are in none.
        if is_static {
            let folder = pkg_config_words(&["--variable=libdir", "libdpdk"]);
            println!("cargo:rustc-link-search=native={}", folder.concat());
            for archive in ARCHIVES {
                println!("cargo:rustc-link-lib=static:+whole-archive={archive}");
            }
            for shared in ["numa", "bsd", "dl", "m"] {
                println!("cargo:rustc-link-lib=dylib={shared}");
            }
        } else {
            for shared in ["rte_bus_pci", "rte_eal"] {
                println!("cargo:rustc-link-lib=dylib={shared}");
            }
        }
    }

    fn pkg_config_words(arguments: &[&str]) -> Vec<String> {
        let output = std::process::Command::new("pkg-config")
            .args(arguments)
            .output()
            .expect("pkg-config, which answered before");
        String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
    }
}
