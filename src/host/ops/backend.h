/*
 * backend.h - what a device can do: one table of functions that every backend fills completely.
 *
 * The csp_<op>_fwd and _bwd functions of the other headers of this folder check shapes and dtypes,
 * the same for all backends, and then call through this table. A second backend is a second table.
 * Addresses in tensors are the backend's: host code reads them only through csp_backend_download.
 */
#pragma once

#include "core/arena.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct csp_ops csp_ops;
struct csp_profile;

/* Which passes a backend replays as graphs (ops/graph.h); device.graphs. */
typedef enum csp_graphs {
    CSP_GRAPHS_AUTO = 0, /* those so small that launching them is what takes the time */
    CSP_GRAPHS_OFF = 1,
    CSP_GRAPHS_ON = 2 /* all that repeat */
} csp_graphs;

typedef struct csp_backend {
    const csp_ops *ops;
    void *state;        /* private to the backend, its scratch memory among it             */
    const char *name;   /* "cpu", "cuda:0"                                                 */
    int threads;        /* of a CPU backend; part of what a resumed run must keep the same */
    bool sync_every_op; /* every op waits until it is done: the first bad one is named        */
    bool bf16;          /* its ops take bf16 where their contract says so; else they refuse it */
    bool host_memory;   /* its addresses are those of the host                                */
    bool fp8;           /* its linear maps take matrices in e4m3; else they refuse them       */
    bool apart;         /* the same of matrices whose rows lie apart (csp_tensor.apart)        */
    struct csp_profile *profile; /* the one that runs (ops/profile.h), or NULL                */
    bool tune_products; /* a GPU times the algorithms of each kind of matrix product          */
    int64_t tuned;      /* kinds that were timed so far: there is more to csp_backend_tuning_get */
    bool replays;       /* it can replay passes as graphs                                     */
    csp_graphs graphs;  /* which: csp_graph_choose                                            */
    int64_t replayed;   /* passes that were replayed so far                                   */
} csp_backend;

/*
 * Opens a backend by name: "cpu", "cuda", "cuda:1"; "auto" is the last registered that opens, so
 * the best is registered last.
 *
 *   threads   in   0 = one for each core this process may run on
 *
 * Errors: CSP_ERR_DEVICE (the device is not there, in words), CSP_ERR_UNSUPPORTED (this program
 *         has no such backend), CSP_ERR_ARGUMENT (unknown name).
 */
CSP_CHECKED csp_status csp_backend_create(const char *name, int threads, csp_backend **out);
void csp_backend_destroy(csp_backend *be);

/* Registers the opener of a backend; cli/ does so at start for each backend it carries. */
typedef csp_status (*csp_backend_opener)(const char *name, int threads, csp_backend **out);
void csp_backend_register(const char *prefix, csp_backend_opener opener);

/* Gets bytes of device memory as an arena, its pages not yet touched. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_backend_reserve(csp_backend *be, size_t bytes, csp_arena *out);
void csp_backend_release(csp_backend *be, csp_arena *arena);

/* Memory of a device. */
typedef struct csp_memory {
    int64_t free;    /* bytes that can still be reserved; INT64_MAX: not known            */
    int64_t total;   /* the same of the whole device                                      */
    bool lazy;       /* reserved memory is taken when it is first written to, as on a CPU */
    int64_t scratch; /* bytes that ops on a device have taken to work in, and keep        */
} csp_memory;

/* Errors: CSP_ERR_DEVICE. */
CSP_CHECKED csp_status csp_backend_memory(csp_backend *be, csp_memory *out);

/*
 * Host to device (host is free for other use at once), device to host (waits for be), device to
 * device; sizes in bytes must agree. Rows of a tensor on the device may lie apart where be has
 * that; on the host, in csp_backend_copy and csp_backend_fetch they do not.
 */
CSP_CHECKED csp_status csp_backend_upload(csp_backend *be, const void *host, csp_tensor *dst);
CSP_CHECKED csp_status csp_backend_download(csp_backend *be, const csp_tensor *src, void *host);
CSP_CHECKED csp_status csp_backend_copy(csp_backend *be, const csp_tensor *src, csp_tensor *dst);
CSP_CHECKED csp_status csp_backend_zero(csp_backend *be, csp_tensor *t);

/*
 * Memory of the host that a device can write to while the host goes on (page-locked), as an arena.
 * Errors: CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_backend_host_reserve(csp_backend *be, size_t bytes, csp_arena *out);
void csp_backend_host_release(csp_backend *be, csp_arena *arena);

/*
 * Enqueues a copy of src to the host; a CPU makes it at once.
 *
 *   host   out   memory of csp_backend_host_reserve; to be read after the next csp_backend_sync
 */
CSP_CHECKED csp_status csp_backend_fetch(csp_backend *be, const csp_tensor *src, void *host);

/*
 * A download beside later work, into host memory of its own, which grows with what is downloaded.
 *
 *     csp_download d = { 0 };
 *     csp_download_mark(be, &d);                 what is enqueued so far makes what is copied
 *     ...                                        enqueue work that does not write parts
 *     csp_download_start(be, &d, parts, 2, at);  copies begin when the work before the mark is
 *                                                done, and wait for nothing that came behind it
 *     ...                                        the same
 *     csp_download_wait(be, &d);                 at[0], at[1] hold the parts until the next start
 *     csp_download_clear(be, &d);
 *
 * A mark serves any number of starts; each start is waited for before the next start or mark.
 * Stream:  mark and start are enqueued, but that a start may allocate host memory; wait waits for
 *          the copies, not for be, and reports faults of kernels as csp_backend_sync does.
 * Errors:  CSP_ERR_MEMORY, CSP_ERR_DEVICE.
 */
typedef struct csp_download {
    csp_arena host; /* of csp_backend_host_reserve */
    void *state;    /* private to the backend      */
} csp_download;

CSP_CHECKED csp_status csp_download_mark(csp_backend *be, csp_download *d);
CSP_CHECKED csp_status csp_download_start(csp_backend *be, csp_download *d, const csp_tensor *parts,
                                          int count, void **at);
CSP_CHECKED csp_status csp_download_wait(csp_backend *be, csp_download *d);
void csp_download_clear(csp_backend *be, csp_download *d);

/*
 * What the backend chose by timing, and what it must be for the choices to hold, as a text that
 * only it reads; "" from one that times nothing. It belongs into a checkpoint: an algorithm sets
 * the order of additions. Set before the first op, it gives the same bits as the backend it was
 * got from.
 *
 * Owner:  the caller frees *text.
 * Errors: CSP_ERR_MEMORY; of set also CSP_ERR_UNSUPPORTED (chosen on another device, or by another
 *         version of its library: both are named) and CSP_ERR_FORMAT. Nothing is set then.
 */
CSP_CHECKED csp_status csp_backend_tuning_get(csp_backend *be, char **text);
CSP_CHECKED csp_status csp_backend_tuning_set(csp_backend *be, const char *text);

enum { CSP_VERSIONS_BYTES = 256 };

/*
 * What else of a machine a result's last bits depend on, in lines "<key> <value>": of a GPU its
 * driver and cuBLAS, of a CPU OpenBLAS with the kernels that it has picked. The device itself and
 * cuBLASLt are in the text of csp_backend_tuning_get.
 *
 *     driver CUDA 13.0
 *     cublas 13.1.0
 *
 * Errors: CSP_ERR_DEVICE.
 */
CSP_CHECKED csp_status csp_backend_versions(csp_backend *be, char text[CSP_VERSIONS_BYTES]);

/* Waits for everything enqueued; reports faults of kernels, naming the last op. */
CSP_CHECKED csp_status csp_backend_sync(csp_backend *be);

/*
 * Marks how far be is when it has done what was enqueued before; a mark of the same index is set
 * anew. elapsed is the time between two marks that were set, and passed since: wait for be first.
 *
 *   index   in    0, 1, ...: memory is kept for the largest, so they are numbered closely
 *
 * Stream: mark is enqueued on be and does not wait.
 * Errors: CSP_ERR_ARGUMENT (no such mark), CSP_ERR_DEVICE (not passed yet), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_backend_mark(csp_backend *be, int64_t index);
CSP_CHECKED csp_status csp_backend_elapsed(csp_backend *be, int64_t from, int64_t to,
                                           double *seconds);

#ifdef __cplusplus
}
#endif
