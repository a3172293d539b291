/*
 * stream.h - the insides of a stream, an event and a graph, for stream.cc and graph.cc.
 */
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "emulator/internals.h"

namespace emu
{

/* One recording of an event: what waits for it waits for this, not for the event's next one. */
struct Recording {
    bool done;
    double seconds;
    char clock; /* orders, for the thread sanitizer */
};

/* A node of a graph may run when those it lists have. */
struct Node {
    std::function<void()> work;
    const char *who;
    std::vector<int> after;
    int lane; /* nodes of a lane follow one another */
};

/* What a stream, or several, record between begin and end of a capture. */
struct Capture {
    std::vector<Node> nodes;
    std::vector<CUstream_st *> joined;
    std::vector<int> lane_end; /* the last node of each lane */
    bool broken;
};

/* A graph on its way through a stream. */
struct GraphRun {
    std::shared_ptr<const std::vector<Node>> nodes;
    std::shared_ptr<std::vector<void *>> actors; /* by lane */
    std::vector<char> done;
    std::vector<char> clocks; /* of the nodes; and one of the beginning */
    size_t left;
};

enum OpKind { OP_WORK, OP_RECORD, OP_WAIT, OP_GRAPH, OP_POLL };

struct Op {
    OpKind kind;
    std::function<void()> work;
    const char *who;
    std::shared_ptr<Recording> recording;
    std::shared_ptr<GraphRun> run;
    char clock;                           /* set when it was enqueued              */
    std::function<bool()> poll = nullptr; /* OP_POLL: tries to go on; true: done   */
};

/* Appends to a stream that is not being captured. */
cudaError_t append(CUstream_st *stream, std::unique_ptr<Op> op);
/* Appends to the graph that the stream is being captured into. */
cudaError_t capture_node(CUstream_st *stream, std::function<void()> work, const char *who);
/* Runs one node that may run. True when the whole graph is done. */
bool step_graph(GraphRun *run, void *stream_actor, char *op_clock);
/* Who works now: streams by number, lanes of a graph in its turn. */
void set_actor(int number);
/* An event is recorded on, or awaited by, a stream under capture. */
void capture_record(CUevent_st *event, CUstream_st *stream);
cudaError_t capture_wait(CUstream_st *stream, CUevent_st *event);
bool is_stream(cudaStream_t stream, const char *who);

} // namespace emu

struct CUstream_st {
    std::deque<std::unique_ptr<emu::Op>> queue;
    void *actor; /* the thread sanitizer's idea of who does the work */
    int number;  /* streams are counted as they are made                */
    int device;  /* current when it was made                            */
    char clock;
    std::shared_ptr<emu::Capture> capture;
    std::vector<int> frontier; /* nodes that the next captured one follows */
    bool origin;               /* the capture began here */
};

struct CUevent_st {
    std::shared_ptr<emu::Recording> recording; /* the latest; none: nothing to wait for */
    std::weak_ptr<emu::Capture> capture;       /* recorded in a capture: after these nodes */
    bool captured;                             /* recorded in one last, which may be over  */
    bool timed;
    std::vector<int> frontier;
};

struct CUgraph_st {
    std::shared_ptr<const std::vector<emu::Node>> nodes;
    int lanes;
};

struct CUgraphExec_st {
    std::shared_ptr<const std::vector<emu::Node>> nodes;
    std::shared_ptr<std::vector<void *>> actors;
};
