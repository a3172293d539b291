/*
 * graph.cc - CUDA graphs of the fake runtime: captured from one or several streams, replayed in any
 * order that their edges allow.
 */
#include <string.h>

#include "emulator/sanitizer.h"
#include "emulator/stream.h"

namespace emu
{

cudaError_t capture_node(CUstream_st *stream, std::function<void()> work, const char *who)
{
    Capture *capture = stream->capture.get();
    const int id = (int)capture->nodes.size();
    int lane = -1;

    if (capture->broken) {
        return remember(cudaErrorStreamCaptureInvalidated);
    }

    /* A node goes on in the lane of one that it follows, if that one is the lane's last. */
    for (const int before : stream->frontier) {
        if (capture->lane_end[(size_t)capture->nodes[(size_t)before].lane] == before) {
            lane = capture->nodes[(size_t)before].lane;
        }
    }
    if (lane < 0) {
        lane = (int)capture->lane_end.size();
        capture->lane_end.push_back(id);
    }
    capture->lane_end[(size_t)lane] = id;
    capture->nodes.push_back({ std::move(work), who, stream->frontier, lane });
    stream->frontier.assign(1, id);
    return cudaSuccess;
}

void capture_record(CUevent_st *event, CUstream_st *stream)
{
    event->recording.reset();
    event->capture = stream->capture;
    event->captured = true;
    event->frontier = stream->frontier;
}

cudaError_t capture_wait(CUstream_st *stream, CUevent_st *event)
{
    const std::shared_ptr<Capture> capture = event->capture.lock();

    if (capture == nullptr || (stream->capture != nullptr && stream->capture != capture)) {
        /* The capture would depend on what is outside of it. */
        stream->capture->broken = true;
        return remember(cudaErrorStreamCaptureIsolation);
    }
    if (stream->capture == nullptr) {
        stream->capture = capture;
        stream->frontier.clear();
        stream->origin = false;
        capture->joined.push_back(stream);
    }
    for (const int node : event->frontier) {
        stream->frontier.push_back(node);
    }
    return cudaSuccess;
}

bool step_graph(GraphRun *run, void *stream_actor, char *op_clock)
{
    const std::vector<Node> &nodes = *run->nodes;
    std::vector<size_t> able;

    if (run->left == nodes.size()) {
        tsan_release(&run->clocks[nodes.size()]); /* what the stream did before the graph */
    }

    for (size_t i = 0; i < nodes.size(); i++) {
        bool ready = run->done[i] == 0;

        for (const int before : nodes[i].after) {
            ready = ready && run->done[(size_t)before] != 0;
        }
        if (ready) {
            able.push_back(i);
            if (settings().order == ORDER_FORWARD) {
                break;
            }
        }
    }
    if (!able.empty()) {
        const size_t i =
            settings().order == ORDER_RANDOM ? able[draw((uint32_t)able.size())] : able.back();

        tsan_switch((*run->actors)[(size_t)nodes[i].lane]);
        tsan_acquire(op_clock);
        tsan_acquire(&run->clocks[nodes.size()]);
        for (const int before : nodes[i].after) {
            tsan_acquire(&run->clocks[(size_t)before]);
        }
        set_actor(nodes[i].lane);
        nodes[i].work();
        tsan_release(&run->clocks[i]);
        tsan_switch(stream_actor);
        run->done[i] = 1;
        run->left--;
    }
    if (run->left > 0) {
        return false;
    }
    for (size_t i = 0; i < nodes.size(); i++) {
        tsan_acquire(&run->clocks[i]);
    }
    return true;
}

namespace
{

/* Does node lie before one of those in the frontier, or is it one of them? */
bool leads_to(const Capture &capture, int node, const std::vector<int> &frontier)
{
    std::vector<char> seen(capture.nodes.size(), 0);
    std::vector<int> todo = frontier;

    while (!todo.empty()) {
        const int at = todo.back();

        todo.pop_back();
        if (at == node) {
            return true;
        }
        if (seen[(size_t)at] == 0) {
            seen[(size_t)at] = 1;
            todo.insert(todo.end(), capture.nodes[(size_t)at].after.begin(),
                        capture.nodes[(size_t)at].after.end());
        }
    }
    return false;
}

} // namespace

} // namespace emu

using namespace emu;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    if (!is_stream(stream, "cudaStreamBeginCapture")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (planned_failure() || stream->capture != nullptr) {
        return remember(cudaErrorIllegalState);
    }
    stream->capture = std::make_shared<Capture>();
    stream->capture->joined.push_back(stream);
    stream->frontier.clear();
    stream->origin = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    const std::shared_ptr<Capture> capture = stream->capture;
    bool unjoined = false;

    *out = nullptr;
    if (capture == nullptr || !stream->origin) {
        return remember(cudaErrorStreamCaptureUnmatched);
    }
    for (CUstream_st *other : capture->joined) {
        for (const int node : other->frontier) {
            unjoined = unjoined || !leads_to(*capture, node, stream->frontier);
        }
        if (other != stream) {
            other->capture.reset();
            other->frontier.clear();
        }
    }
    stream->capture.reset();
    stream->frontier.clear();
    if (capture->broken || planned_failure()) {
        return remember(cudaErrorStreamCaptureInvalidated);
    }
    if (unjoined) {
        return remember(cudaErrorStreamCaptureUnjoined);
    }
    *out = new CUgraph_st { std::make_shared<const std::vector<Node>>(std::move(capture->nodes)),
                            (int)capture->lane_end.size() };
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *out)
{
    if (!is_stream(stream, "cudaStreamIsCapturing")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    *out = stream->capture == nullptr ? cudaStreamCaptureStatusNone
           : stream->capture->broken  ? cudaStreamCaptureStatusInvalidated
                                      : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    if (nodes != nullptr) {
        return remember(cudaErrorNotSupported);
    }
    *count = graph->nodes->size();
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    if (planned_failure()) {
        return remember(cudaErrorMemoryAllocation);
    }
    CUgraphExec_st *exec =
        new CUgraphExec_st { graph->nodes, std::make_shared<std::vector<void *>>() };
    for (int lane = 0; lane < graph->lanes; lane++) {
        exec->actors->push_back(tsan_create());
    }
    *out = exec;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    if (!is_stream(stream, "cudaGraphLaunch")) {
        return remember(cudaErrorInvalidResourceHandle);
    }
    if (fault() != cudaSuccess) {
        return fault();
    }
    if (stream->capture != nullptr || planned_failure()) {
        return remember(cudaErrorNotSupported);
    }
    auto run = std::make_shared<GraphRun>();
    run->nodes = exec->nodes;
    run->actors = exec->actors;
    run->left = exec->nodes->size();
    run->done.assign(run->left, 0);
    run->clocks.assign(run->left + 1, 0);
    return append(stream, std::unique_ptr<Op>(
                              new Op { OP_GRAPH, nullptr, "cudaGraphLaunch", nullptr, run, 0 }));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    run_everything(); /* launches of it may still be under way, and use its actors */
    for (void *actor : *exec->actors) {
        tsan_destroy(actor);
    }
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
