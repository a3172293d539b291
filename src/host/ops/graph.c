/* graph.c - whether a pass may be replayed at all; the backend decides the rest. */
#include "ops/graph.h"

#include "ops/table.h"

csp_status csp_graph_choose(csp_backend *be, csp_graphs graphs)
{
    if (graphs == CSP_GRAPHS_ON && !be->replays) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "device.graphs is of a GPU: %s has no launches to save, leave it at auto",
                        be->name);
    }
    be->graphs = graphs;
    return CSP_OK;
}

csp_status csp_graph_run(csp_backend *be, const csp_graph_call *call)
{
    /* Neither a wait nor a mark between two ops can be part of a graph. */
    return be->graphs == CSP_GRAPHS_OFF || be->sync_every_op || be->profile != NULL
               ? call->enqueue(call->context)
               : be->ops->graph_run(be, call);
}
