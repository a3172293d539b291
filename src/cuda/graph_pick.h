/*
 * graph_pick.h - which passes are replayed as graphs. No device needed.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ops/backend.h"

/*
 * Token rows up to which launching a pass takes a share of its time worth a graph: by the model of
 * 2 to 3 us a launch, some 1000 launches a pass, 10 to 30 % of it up to here. Not measured.
 */
#define GRAPH_ROWS 4096

static inline bool pick_graph(csp_graphs graphs, int64_t rows)
{
    return graphs == CSP_GRAPHS_ON || (graphs == CSP_GRAPHS_AUTO && rows <= GRAPH_ROWS);
}
