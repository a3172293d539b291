/*
 * collective.cu - collectives of devices, enqueued on a stream of their own.
 *
 * Equal parts go by the calls that NCCL has for them; for unequal ones it has none, and a group of
 * one broadcast or reduction for each rank takes their place, as its manual says for all-gathers.
 *
 * NCCL's maximum and minimum of floating-point numbers give a NaN of one rank away. They are made
 * of whole numbers instead: the bits of finite numbers and infinities, those of negative ones
 * flipped but for the sign, are in the order of what they stand for, and a NaN takes the place
 * beyond all.
 */
#include "collective.h"

#include <stdio.h>

#include "collective_group.cuh"
#include "core/memory.h"
#include "launch.cuh"

/* Joins that are measured between two calls of csp_collective_waited. */
enum { MOST_JOINS = 4096 };

#define KEY_THREADS 64

csp_status cuda_collective_library(csp_backend *be, const char **name)
{
    cuda_state *state = cuda_state_of(be);
    const nccl_table *t;

    CSP_TRY(cuda_nccl(state, &t));
    *name = cuda_nccl_name(state);
    return CSP_OK;
}

csp_status cuda_collective_make_id(csp_backend *be, csp_collective_id *out)
{
    cuda_state *state = cuda_state_of(be);
    const nccl_table *t;
    nccl_result result;
    nccl_id id;

    CSP_TRY(cuda_nccl(state, &t));
    result = t->make_id(&id);
    if (result != NCCL_OK) {
        return CSP_FAIL(CSP_ERR_DEVICE,
                        "%s: NCCL cannot be joined from here: %s (%s): does NCCL_SOCKET_IFNAME "
                        "name an interface of this machine?",
                        state->name, t->error_string(result), t->last_error(NULL));
    }
    memcpy(out->bytes, id.bytes, sizeof(out->bytes));
    return CSP_OK;
}

/* Of what bytes are copied only, the type does not matter. */
static nccl_type type_of(csp_dtype dtype, size_t *per_element)
{
    *per_element = 1;
    switch (dtype) {
    case CSP_F32:
        return NCCL_F32;
    case CSP_F64:
        return NCCL_F64;
    case CSP_I32:
        return NCCL_I32;
    case CSP_I64:
        return NCCL_I64;
    default:
        *per_element = csp_dtype_bytes(dtype);
        return NCCL_BYTE;
    }
}

/* A call in NCCL's terms. */
typedef struct order {
    const nccl_table *t;
    nccl_comm comm;
    cudaStream_t stream;
    nccl_type type;
    size_t unit; /* elements of type in one of the tensor */
    size_t size; /* bytes of an element of the tensor     */
} order;

static bool parts_are_equal(const csp_collective_call *call, int size)
{
    for (int r = 1; r < size; r++) {
        if (call->counts[r] != call->counts[0]) {
            return false;
        }
    }
    return true;
}

static nccl_result gather(const order *o, const cuda_collective *c, const csp_collective_call *call)
{
    char *place = (char *)call->out.data;
    nccl_result result = NCCL_OK;

    if (parts_are_equal(call, c->base.size)) {
        return o->t->all_gather(call->in.data, call->out.data, (size_t)call->counts[0] * o->unit,
                                o->type, o->comm, o->stream);
    }
    for (int r = 0; r < c->base.size; r++) {
        const size_t count = (size_t)call->counts[r];

        if (count > 0 && (result == NCCL_OK || result == NCCL_IN_PROGRESS)) {
            result = o->t->broadcast(r == c->base.rank ? call->in.data : place, place,
                                     count * o->unit, o->type, r, o->comm, o->stream);
        }
        place += count * o->size;
    }
    return result;
}

static nccl_result scatter_sum(const order *o, const cuda_collective *c,
                               const csp_collective_call *call)
{
    const char *place = (const char *)call->in.data;
    nccl_result result = NCCL_OK;

    if (parts_are_equal(call, c->base.size)) {
        return o->t->reduce_scatter(call->in.data, call->out.data, (size_t)call->counts[0], o->type,
                                    NCCL_SUM, o->comm, o->stream);
    }
    for (int r = 0; r < c->base.size; r++) {
        const size_t count = (size_t)call->counts[r];

        if (count > 0 && (result == NCCL_OK || result == NCCL_IN_PROGRESS)) {
            result = o->t->reduce(place, r == c->base.rank ? call->out.data : NULL, count, o->type,
                                  NCCL_SUM, r, o->comm, o->stream);
        }
        place += count * o->size;
    }
    return result;
}

static nccl_result give(const order *o, const cuda_collective *c, const csp_collective_call *call)
{
    const size_t count = (size_t)csp_tensor_count(&call->out) * o->unit;
    void *data = call->out.data;

    switch (call->kind) {
    case CSP_COLLECTIVE_SUM:
        return o->t->all_reduce(data, data, count, o->type, NCCL_SUM, o->comm, o->stream);
    case CSP_COLLECTIVE_MAX:
        return o->t->all_reduce(data, data, count, o->type, NCCL_MAX, o->comm, o->stream);
    case CSP_COLLECTIVE_MIN:
        return o->t->all_reduce(data, data, count, o->type, NCCL_MIN, o->comm, o->stream);
    case CSP_COLLECTIVE_BROADCAST:
        return o->t->broadcast(data, data, count, o->type, call->root, o->comm, o->stream);
    case CSP_COLLECTIVE_GATHER:
        return gather(o, c, call);
    case CSP_COLLECTIVE_SCATTER_SUM:
        break;
    }
    return scatter_sum(o, c, call);
}

/* Whether it must go as keys, so that a NaN stays. */
static bool needs_keys(const csp_collective_call *call)
{
    return (call->kind == CSP_COLLECTIVE_MAX || call->kind == CSP_COLLECTIVE_MIN) &&
           (call->in.dtype == CSP_F32 || call->in.dtype == CSP_F64);
}

/* A number's bits, and whole numbers in the same order; each is the other's inverse. */
template <typename whole> static __device__ whole flip(whole bits, whole most)
{
    return bits < 0 ? bits ^ most : bits;
}

template <typename whole>
static __global__ void __launch_bounds__(KEY_THREADS)
    to_keys_kernel(whole *__restrict__ x, // (n) bits of numbers, then keys
                   int64_t n, whole infinity, whole most, whole of_nan)
{
    for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
        const whole bits = x[i];

        x[i] = (bits & most) > infinity ? of_nan : flip(bits, most);
    }
}

template <typename whole>
static __global__ void __launch_bounds__(KEY_THREADS)
    from_keys_kernel(whole *__restrict__ x, // (n) keys, then bits of numbers
                     int64_t n, whole most)
{
    for (int64_t i = grid_thread(); i < n; i += grid_threads()) {
        x[i] = flip(x[i], most);
    }
}

/* Of a NaN the greatest or the least whole number, by what is asked for: no other number has it. */
template <typename whole>
static csp_status to_keys(const cuda_state *state, const csp_collective_call *call, whole infinity,
                          whole most)
{
    const int64_t n = csp_tensor_count(&call->out);

    CUDA_TRY(cu::launch(to_keys_kernel<whole>, stride_grid(n, KEY_THREADS, state->processors),
                        KEY_THREADS, 0, state->collectives.stream, (whole *)call->out.data, n,
                        infinity, most, call->kind == CSP_COLLECTIVE_MAX ? most : ~most));
    return CSP_OK;
}

template <typename whole>
static csp_status from_keys(const cuda_state *state, const csp_collective_call *call, whole most)
{
    const int64_t n = csp_tensor_count(&call->out);

    CUDA_TRY(cu::launch(from_keys_kernel<whole>, stride_grid(n, KEY_THREADS, state->processors),
                        KEY_THREADS, 0, state->collectives.stream, (whole *)call->out.data, n,
                        most));
    return CSP_OK;
}

/* Hands a call to NCCL, which may take it beside the caller. */
static csp_status hand_over(csp_backend *be, cuda_collective *c, const csp_collective_call *call)
{
    cuda_state *state = cuda_state_of(be);
    order o = { NULL,      c->comm, state->collectives.stream,
                NCCL_BYTE, 1,       csp_dtype_bytes(call->in.dtype) };
    nccl_result given, ended;
    char words[300];

    CSP_TRY(cuda_nccl(state, &o.t));
    o.type = type_of(call->in.dtype, &o.unit);
    if (needs_keys(call)) {
        o.type = call->in.dtype == CSP_F64 ? NCCL_I64 : NCCL_I32;
    }
    given = o.t->group_start();
    if (given == NCCL_OK) {
        given = give(&o, c, call);
        ended = o.t->group_end();
        given = given == NCCL_OK || given == NCCL_IN_PROGRESS ? ended : given;
    }
    if (given == NCCL_OK || given == NCCL_IN_PROGRESS) {
        return cuda_collective_settle(be, c, call->what);
    }
    (void)snprintf(words, sizeof(words), "NCCL: %s (%s)", o.t->error_string(given),
                   o.t->last_error(c->comm));
    return cuda_collective_fail(be, c, CSP_WATCH_BROKEN, call->what, words);
}

/* The same, of numbers that go as keys. */
static csp_status hand_over_keys(csp_backend *be, cuda_collective *c,
                                 const csp_collective_call *call)
{
    const cuda_state *state = cuda_state_of(be);

    if (call->in.dtype == CSP_F64) {
        CSP_TRY(to_keys<int64_t>(state, call, (int64_t)0x7ff << 52, INT64_MAX));
        CSP_TRY(hand_over(be, c, call));
        return from_keys<int64_t>(state, call, INT64_MAX);
    }
    CSP_TRY(to_keys<int32_t>(state, call, 0xff << 23, INT32_MAX));
    CSP_TRY(hand_over(be, c, call));
    return from_keys<int32_t>(state, call, INT32_MAX);
}

/* Nothing to be moved on any rank: NCCL need not know. */
static bool is_empty(const csp_collective_call *call)
{
    return csp_tensor_count(&call->in) == 0 && csp_tensor_count(&call->out) == 0;
}

csp_status cuda_collective_start(csp_backend *be, csp_collective *collective,
                                 const csp_collective_call *call, int64_t *ticket)
{
    cuda_state *state = cuda_state_of(be);
    cuda_collectives *shared = &state->collectives;
    cuda_collective *c = (cuda_collective *)collective;
    cuda_begun *begun = &c->known[c->begun % CUDA_COLLECTIVES_KNOWN];

    CSP_TRY(cuda_collective_alive(be, c, call->what));
    if (state->graphs.recording) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: a collective inside a graph", call->what);
    }
    if (begun->done == NULL) {
        CUDA_TRY(cudaEventCreateWithFlags(&begun->done, cudaEventDisableTiming));
    }
    CUDA_TRY(cudaEventRecord(shared->ready, state->stream));
    CUDA_TRY(cudaStreamWaitEvent(shared->stream, shared->ready, 0));
    if (!is_empty(call)) {
        CSP_TRY(needs_keys(call) ? hand_over_keys(be, c, call) : hand_over(be, c, call));
    }
    CUDA_TRY(cudaEventRecord(begun->done, shared->stream));
    begun->what = call->what;
    *ticket = c->begun++;
    return CSP_OK;
}

/* The events around the next join; NULL: it is not measured. */
static csp_status measure(cuda_collective *c, cudaEvent_t **out)
{
    *out = NULL;
    if (c->joined == MOST_JOINS) {
        return CSP_OK;
    }
    CSP_TRY(csp_reach("joins", 2 * c->joined + 1, sizeof(*c->joins), &c->joins, &c->join_events));
    for (int i = 0; i < 2; i++) {
        cudaEvent_t *event = &c->joins[2 * c->joined + i];

        if (*event == NULL) {
            CUDA_TRY(cudaEventCreate(event));
        }
    }
    *out = &c->joins[2 * c->joined];
    return CSP_OK;
}

/* Of one that is no longer known, a later one is waited for, which was begun before this call. */
csp_status cuda_collective_join(csp_backend *be, csp_collective *collective, int64_t ticket)
{
    cuda_state *state = cuda_state_of(be);
    cuda_collective *c = (cuda_collective *)collective;
    const cuda_begun *begun = &c->known[ticket % CUDA_COLLECTIVES_KNOWN];
    cudaEvent_t *around;

    if (ticket < 0 || ticket >= c->begun) {
        return CSP_FAIL(CSP_ERR_ARGUMENT, "ticket %lld is of no collective of %lld",
                        (long long)ticket, (long long)c->begun);
    }
    CSP_TRY(cuda_collective_alive(be, c, begun->what));
    if (state->graphs.recording) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: a collective is awaited inside a graph", begun->what);
    }
    CSP_TRY(measure(c, &around));
    if (around != NULL) {
        CUDA_TRY(cudaEventRecord(around[0], state->stream));
    }
    CUDA_TRY(cudaStreamWaitEvent(state->stream, begun->done, 0));
    if (around != NULL) {
        CUDA_TRY(cudaEventRecord(around[1], state->stream));
        c->joined++;
    }
    return CSP_OK;
}

csp_status cuda_collective_waited(csp_backend *be, csp_collective *collective, double *seconds)
{
    cuda_collective *c = (cuda_collective *)collective;
    double sum = 0.0;

    (void)be;
    for (int64_t i = 0; i < c->joined; i++) {
        float milliseconds;

        CUDA_TRY(cudaEventElapsedTime(&milliseconds, c->joins[2 * i], c->joins[2 * i + 1]));
        sum += 1e-3 * (double)milliseconds;
    }
    c->joined = 0;
    *seconds = sum;
    return CSP_OK;
}
