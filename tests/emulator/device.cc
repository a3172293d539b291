/*
 * device.cc - what the fake CUDA runtime says of its devices, which look like an H100. A process
 * uses one of them.
 */
#include <map>
#include <vector>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "emulator/internals.h"

namespace emu
{

namespace
{

thread_local int device_now;  /* cudaSetDevice: they are all alike */
thread_local bool device_set; /* by this thread                    */
bool device_set_by_any;
std::map<const void *, size_t> allowed; /* kernels with more dynamic shared memory than usual */

struct Name {
    cudaError_t error;
    const char *name, *text;
};

const Name names[] = {
    { cudaSuccess, "cudaSuccess", "no error" },
    { cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument" },
    { cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory" },
    { cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
      "invalid configuration argument" },
    { cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument" },
    { cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
      "invalid copy direction for memcpy" },
    { cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected" },
    { cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal" },
    { cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle" },
    { cudaErrorIllegalState, "cudaErrorIllegalState",
      "the operation cannot be performed in the present state" },
    { cudaErrorNotReady, "cudaErrorNotReady", "device not ready" },
    { cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
      "an illegal memory access was encountered" },
    { cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
      "too many resources requested for launch" },
    { cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure" },
    { cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported" },
    { cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
      "no kernel image is available for execution on the device" },
    { cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable",
      "CUDA-capable device(s) is/are busy or unavailable" },
    { cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
      "operation not permitted when stream is capturing" },
    { cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
      "operation not permitted on an event last recorded in a capturing stream" },
    { cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
      "operation failed due to a previous error during capture" },
    { cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
      "capture was not ended in the same stream as it began" },
    { cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
      "capturing stream has unjoined work" },
    { cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
      "dependency created on uncaptured work in another stream" },
    { cudaErrorUnknown, "cudaErrorUnknown", "unknown error" },
};

const Name *name_of(cudaError_t error)
{
    for (const Name &name : names) {
        if (name.error == error) {
            return &name;
        }
    }
    return &names[sizeof(names) / sizeof(names[0]) - 1];
}

/* Attributes by their place in cudaDeviceProp; -1 for those that this device does not know. */
int attribute(const cudaDeviceProp &p, cudaDeviceAttr which)
{
    switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
        return p.maxThreadsPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return (int)p.sharedMemPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return (int)p.sharedMemPerBlockOptin;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return (int)p.sharedMemPerMultiprocessor;
    case cudaDevAttrMultiProcessorCount:
        return p.multiProcessorCount;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return p.maxThreadsPerMultiProcessor;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
        return p.maxBlocksPerMultiProcessor;
    case cudaDevAttrComputeCapabilityMajor:
        return p.major;
    case cudaDevAttrComputeCapabilityMinor:
        return p.minor;
    case cudaDevAttrWarpSize:
        return p.warpSize;
    case cudaDevAttrL2CacheSize:
        return p.l2CacheSize;
    case cudaDevAttrMemoryClockRate:
        return 2619000;
    case cudaDevAttrClockRate:
        return 1980000;
    case cudaDevAttrGlobalMemoryBusWidth:
        return p.memoryBusWidth;
    case cudaDevAttrMaxGridDimX:
        return p.maxGridSize[0];
    case cudaDevAttrMaxGridDimY:
        return p.maxGridSize[1];
    case cudaDevAttrMaxGridDimZ:
        return p.maxGridSize[2];
    case cudaDevAttrUnifiedAddressing:
        return p.unifiedAddressing;
    case cudaDevAttrMemoryPoolsSupported:
        return p.memoryPoolsSupported;
    default:
        return -1;
    }
}

} // namespace

/* 90, or what CSP_EMU_CAPABILITY says: devices of which kernels are chosen in another way. */
int capability()
{
    const char *text = getenv("CSP_EMU_CAPABILITY");

    if (text == nullptr || *text == '\0' || strcmp(text, "9.0") == 0) {
        return 90;
    }
    if (strcmp(text, "8.0") != 0 && strcmp(text, "8.6") != 0) {
        fail({ nullptr, 0 }, "CSP_EMU_CAPABILITY=%s: 8.0, 8.6 or 9.0", text);
    }
    return text[2] == '0' ? 80 : 86;
}

size_t shared_allowed(const void *function)
{
    const auto it = allowed.find(function);

    return it == allowed.end() ? (size_t)MAX_SHARED_FREELY : it->second;
}

size_t most_shared()
{
    static const size_t most = capability() == 80   ? 163 * 1024
                               : capability() == 86 ? 99 * 1024
                                                    : (size_t)MAX_SHARED;

    return most;
}

void need_hopper(const char *who)
{
    if (capability() != 90) {
        fail({ nullptr, 0 }, "%s on a device of compute capability %d.%d", who, capability() / 10,
             capability() % 10);
    }
}

/* Numbers of the machine's devices that this process sees: CUDA_VISIBLE_DEVICES up to its first
 * that is not there, or all. */
static std::vector<int> visible_devices()
{
    const char *text = getenv("CSP_EMU_DEVICES"), *list = getenv("CUDA_VISIBLE_DEVICES");
    const int all = text == nullptr ? 1 : atoi(text);
    std::vector<int> visible;

    if (list == nullptr) {
        for (int i = 0; i < all; i++) {
            visible.push_back(i);
        }
        return visible;
    }
    for (char *end; *list != '\0'; list = *end == ',' ? end + 1 : end) {
        const long device = strtol(list, &end, 10);

        if (end == list || device < 0 || device >= all) {
            break;
        }
        visible.push_back((int)device);
    }
    return visible;
}

void need_device(const char *who)
{
    if (device_set_by_any && !device_set) {
        fail({ nullptr, 0 }, "%s in a thread that has set no device: it has device 0", who);
    }
}

int current_device()
{
    return device_now;
}

int device_of_machine()
{
    return visible_devices().at((size_t)device_now);
}

} // namespace emu

using namespace emu;

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = (int)visible_devices().size();
    return *count == 0 ? remember(cudaErrorNoDevice) : cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    int count;

    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        return cudaErrorNoDevice;
    }
    if (device < 0 || device >= count) {
        return remember(cudaErrorInvalidDevice);
    }
    if (planned_failure()) {
        return remember(cudaErrorDevicesUnavailable);
    }
    device_now = device;
    device_set = device_set_by_any = true;
    return fault();
}

cudaError_t cudaGetDevice(int *device)
{
    *device = device_now;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
    const char *name = getenv("CSP_EMU_DEVICE_NAME");
    cudaDeviceProp p = {};
    int count;

    if (cudaGetDeviceCount(&count) != cudaSuccess || device < 0 || device >= count ||
        planned_failure()) {
        return remember(cudaErrorInvalidDevice);
    }
    (void)snprintf(p.name, sizeof(p.name), "%s", name != nullptr ? name : "csplade emulator");
    p.totalGlobalMem = settings().memory;
    p.sharedMemPerBlock = MAX_SHARED_FREELY;
    p.sharedMemPerBlockOptin = most_shared();
    p.sharedMemPerMultiprocessor = most_shared() + 1024;
    p.reservedSharedMemPerBlock = 1024;
    p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.warpSize = 32;
    p.maxThreadsPerBlock = MAX_THREADS;
    p.maxThreadsDim[0] = p.maxThreadsDim[1] = MAX_THREADS;
    p.maxThreadsDim[2] = 64;
    p.maxGridSize[0] = 0x7FFFFFFF;
    p.maxGridSize[1] = p.maxGridSize[2] = 65535;
    p.totalConstMem = 65536;
    p.major = capability() / 10;
    p.minor = capability() % 10;
    p.multiProcessorCount = MULTIPROCESSORS;
    p.maxThreadsPerMultiProcessor = 2048;
    p.maxBlocksPerMultiProcessor = 32;
    p.memoryBusWidth = 5120;
    p.l2CacheSize = 50 << 20;
    p.concurrentKernels = p.unifiedAddressing = p.canMapHostMemory = 1;
    p.asyncEngineCount = 3;
    *out = p;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *out, enum cudaDeviceAttr which, int device)
{
    cudaDeviceProp p;
    const cudaError_t status = cudaGetDeviceProperties(&p, device);

    if (status != cudaSuccess) {
        return status;
    }
    if (attribute(p, which) < 0) {
        return remember(cudaErrorInvalidValue);
    }
    *out = attribute(p, which);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int)
{
    strncpy(text, "0000:00:00.0", (size_t)bytes);
    text[bytes - 1] = '\0';
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    const char *text = getenv("CSP_EMU_DRIVER");

    *version = text != nullptr ? atoi(text) : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void)
{
    run_everything();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute which, int value)
{
    if (planned_failure()) {
        return remember(cudaErrorUnknown);
    }
    if (which == cudaFuncAttributePreferredSharedMemoryCarveout) {
        return cudaSuccess;
    }
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        (size_t)value > most_shared()) {
        return remember(cudaErrorInvalidValue);
    }
    allowed[function] = (size_t)value; /* a smaller one takes permission back */
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *out, const void *function)
{
    cudaFuncAttributes attributes = {};

    if (planned_failure()) {
        return remember(cudaErrorNoKernelImageForDevice);
    }
    attributes.maxThreadsPerBlock = MAX_THREADS;
    attributes.maxDynamicSharedSizeBytes = (int)shared_allowed(function);
    *out = attributes;
    return cudaSuccess;
}

/* As far as threads and shared memory limit it; registers are not known here. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function,
                                                          int threads, size_t shared_bytes)
{
    if (threads < 1 || threads > MAX_THREADS || shared_bytes > shared_allowed(function)) {
        return remember(cudaErrorInvalidValue);
    }
    const int by_threads = 2048 / ((threads + 31) / 32 * 32);
    const int by_shared = (int)((most_shared() + 1024) / (shared_bytes + 1024));
    const int most = by_threads < 32 ? by_threads : 32;

    *blocks = by_shared < most ? by_shared : most;
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return name_of(error)->text;
}

const char *cudaGetErrorName(cudaError_t error)
{
    return name_of(error)->name;
}
