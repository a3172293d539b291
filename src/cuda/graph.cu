/*
 * graph.cu - CUDA side of ops/graph.h: passes are captured from the backend's stream.
 *
 * What a kernel was launched with is part of a graph. The one argument that changes from step to
 * step, that of dropout, is read from device memory by what is recorded (cuda_graphs.step), and
 * written there before a replay where it is another than the last.
 *
 * A capture that fails, whatever the reason, is ended and leaves nothing enqueued; the pass is then
 * enqueued as it is, and its key is not tried again.
 */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "core/memory.h"
#include "device.h"
#include "graph_pick.h"
#include "launch.cuh"

csp_status cuda_graphs_open(cuda_state *state)
{
    void *at;

    CSP_TRY(cuda_allocate(state, "step of graphs", sizeof(*state->graphs.step), &at));
    state->graphs.step = (uint64_t *)at;
    return CSP_OK;
}

/* Replays that are under way end first: the driver keeps what they use until then. */
static void drop(cuda_graphs *graphs, cuda_graph *g)
{
    if (g->exec != NULL) {
        (void)cudaGraphExecDestroy(g->exec);
        g->exec = NULL;
        graphs->dropped++;
    }
}

static void forget(cuda_graphs *graphs, cuda_graph *g)
{
    drop(graphs, g);
    free(g->key);
    *g = {};
}

void cuda_graphs_drop(cuda_graphs *graphs)
{
    for (int i = 0; i < CUDA_GRAPHS; i++) {
        drop(graphs, &graphs->place[i]);
        graphs->place[i].refused = false;
    }
}

void cuda_graphs_forget(cuda_graphs *graphs)
{
    for (int i = 0; i < CUDA_GRAPHS; i++) {
        forget(graphs, &graphs->place[i]);
    }
}

void cuda_graphs_close(cuda_graphs *graphs)
{
    cuda_graphs_forget(graphs);
    (void)cudaFree(graphs->step);
}

static cuda_graph *find(cuda_graphs *graphs, const csp_graph_call *call)
{
    for (int i = 0; i < CUDA_GRAPHS; i++) {
        cuda_graph *g = &graphs->place[i];

        if (g->key != NULL && g->key_count == call->key_count &&
            memcmp(g->key, call->key, (size_t)call->key_count * sizeof(*g->key)) == 0) {
            g->used = ++graphs->clock;
            return g;
        }
    }
    return NULL;
}

/* Gives a key a place, a free one, or that of the key used longest ago. */
static csp_status remember(cuda_graphs *graphs, const csp_graph_call *call)
{
    cuda_graph *oldest = &graphs->place[0];
    uint64_t *key;

    CSP_TRY(csp_alloc("key of a graph", call->key_count, sizeof(*key), &key));
    memcpy(key, call->key, (size_t)call->key_count * sizeof(*key));
    for (int i = 1; i < CUDA_GRAPHS; i++) {
        /* A free place was never used. */
        oldest = graphs->place[i].used < oldest->used ? &graphs->place[i] : oldest;
    }
    forget(graphs, oldest);
    oldest->key = key;
    oldest->key_count = call->key_count;
    oldest->used = ++graphs->clock;
    return CSP_OK;
}

/* Enqueues the pass into a graph. The stream captures nothing afterwards, whatever happens. */
static csp_status capture(csp_backend *be, const csp_graph_call *call, cudaGraph_t *out)
{
    cuda_state *state = cuda_state_of(be);
    csp_status status;
    cudaError_t error;

    CUDA_TRY(cudaStreamBeginCapture(state->stream, cudaStreamCaptureModeThreadLocal));
    state->graphs.recording = true;
    state->graphs.step_recorded = call->step;
    state->graphs.step_read = false;
    status = call->enqueue(call->context);
    state->graphs.recording = false;
    error = cudaStreamEndCapture(state->stream, out);
    if (status == CSP_OK && error != cudaSuccess) {
        status = cuda_failed(error, "cudaStreamEndCapture", __FILE__, __LINE__);
    }
    if (status != CSP_OK && *out != NULL) {
        (void)cudaGraphDestroy(*out);
    }
    (void)cudaGetLastError();
    return status;
}

static csp_status record(csp_backend *be, const csp_graph_call *call, cuda_graph *g)
{
    cuda_graphs *graphs = &cuda_state_of(be)->graphs;
    cudaGraph_t graph = NULL;
    cudaError_t error;

    CSP_TRY(capture(be, call, &graph));
    error = cudaGraphInstantiate(&g->exec, graph, 0);
    (void)cudaGraphDestroy(graph);
    if (error != cudaSuccess) {
        g->exec = NULL;
        return cuda_failed(error, "cudaGraphInstantiate", __FILE__, __LINE__);
    }
    g->reads_step = graphs->step_read;
    graphs->recorded++;
    return CSP_OK;
}

static void say_first(csp_backend *be)
{
    cuda_graphs *graphs = &cuda_state_of(be)->graphs;

    if (!graphs->said && be->graphs == CSP_GRAPHS_ON) {
        csp_log(CSP_LOG_INFO, "device", "%s: passes that repeat are replayed as graphs", be->name);
    } else if (!graphs->said) {
        csp_log(CSP_LOG_INFO, "device",
                "%s: passes of up to %d token rows that repeat are replayed as graphs", be->name,
                CSP_GRAPH_ROWS);
    }
    graphs->said = true;
}

static csp_status replay(csp_backend *be, const csp_graph_call *call, const cuda_graph *g)
{
    cuda_state *state = cuda_state_of(be);
    cuda_graphs *graphs = &state->graphs;

    if (g->reads_step && !(graphs->step_known && graphs->step_there == call->step)) {
        graphs->step_known = false;
        CSP_TRY(cuda_stage(be, &call->step, sizeof(call->step), graphs->step));
        graphs->step_known = true;
        graphs->step_there = call->step;
    }
    CUDA_TRY(cudaGraphLaunch(g->exec, cuda_stream(be, call->name)));
    be->replayed++;
    return CSP_OK;
}

csp_status cuda_graph_run(csp_backend *be, const csp_graph_call *call)
{
    cuda_graphs *graphs = &cuda_state_of(be)->graphs;
    csp_status status = CSP_OK;
    cuda_graph *g;

    if (!pick_graph(be->graphs, call->rows)) {
        return call->enqueue(call->context);
    }
    g = find(graphs, call);
    if (g == NULL) {
        CSP_TRY(call->enqueue(call->context));
        return remember(graphs, call);
    }
    if (g->exec == NULL && !g->refused) {
        status = record(be, call, g);
    }
    if (status == CSP_OK && g->exec != NULL) {
        status = replay(be, call, g);
        if (status == CSP_OK) {
            say_first(be);
            return CSP_OK;
        }
    }
    if (status != CSP_OK) {
        csp_log(CSP_LOG_DEBUG, "device", "%s is enqueued without a graph: %s", call->name,
                csp_error_text());
        drop(graphs, g);
        g->refused = true;
    }
    return call->enqueue(call->context);
}
