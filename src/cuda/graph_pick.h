/*
 * graph_pick.h - which passes are replayed as graphs. No device needed.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "ops/graph.h"

static inline bool pick_graph(csp_graphs graphs, int64_t rows)
{
    return graphs == CSP_GRAPHS_ON || (graphs == CSP_GRAPHS_AUTO && rows <= CSP_GRAPH_ROWS);
}
