/* What the bindings are made from. */

/* For fopencookie. */
#define _GNU_SOURCE 1
/* Iterating over a bus is marked experimental in 22.11. */
#define ALLOW_EXPERIMENTAL_API 1

#include <stdio.h>

#include <rte_bus_pci.h>
#include <rte_dev.h>
#include <rte_devargs.h>
#include <rte_bus.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_memory.h>
#include <rte_memzone.h>
#include <rte_version.h>

/* The error number is a macro over thread-local storage of the library. */
static inline int weft_rte_errno(void) { return rte_errno; }
static inline void weft_clear_rte_errno(void) { rte_errno = 0; }
