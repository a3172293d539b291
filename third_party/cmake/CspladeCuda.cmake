# Finds the CUDA toolkit: nvcc for the plugin libcsplade_cuda.so, and the headers alone for the
# emulator, which runs the same kernel sources on the CPU (docs/emulator.md).
#
# CSPLADE_CUDA_HOME names the toolkit; without it $CUDA_HOME, nvcc's place in PATH and /usr/local/cuda
# are tried. scripts/cuda_toolkit.sh makes one from PyPI wheels. Sets
#   CSPLADE_CUDA_INCLUDE   folder of cuda_runtime.h, or empty: everything CUDA is left out
#   CSPLADE_NVCC           the compiler, or empty: no plugin
#   CSPLADE_CUDA_LIBS      folder of libcudart, libcublas, libcublasLt, libcusparse
set(CSPLADE_CUDA_HOME "" CACHE PATH "The CUDA toolkit; empty: look for one")
set(CSPLADE_CUDA_ARCHITECTURES "80;90" CACHE STRING "Compute capabilities that the CUDA plugin is built for")

# What nvcc is told of them; the newest as PTX too, for devices that did not exist yet.
set(CSPLADE_CUDA_GENCODE)
foreach(architecture ${CSPLADE_CUDA_ARCHITECTURES})
  list(APPEND CSPLADE_CUDA_GENCODE -gencode arch=compute_${architecture},code=sm_${architecture})
endforeach()
list(GET CSPLADE_CUDA_ARCHITECTURES -1 newest)
list(APPEND CSPLADE_CUDA_GENCODE -gencode arch=compute_${newest},code=compute_${newest})

# Files named *_sm90.cu use what only compute capability 9.0 has, whatever the others are built for;
# their host code asks what the device is.
set(CSPLADE_CUDA_GENCODE_SM90 -gencode arch=compute_90a,code=sm_90a)

set(places ${CSPLADE_CUDA_HOME})
if(NOT places)
  find_program(csplade_nvcc_in_path nvcc)
  if(csplade_nvcc_in_path)
    get_filename_component(folder ${csplade_nvcc_in_path} REALPATH)
    get_filename_component(folder ${folder} DIRECTORY)
    get_filename_component(folder ${folder} DIRECTORY)
  endif()
  set(places $ENV{CUDA_HOME} ${folder} /usr/local/cuda)
endif()

find_path(CSPLADE_CUDA_INCLUDE cuda_runtime.h HINTS ${places} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_program(CSPLADE_NVCC nvcc HINTS ${places} PATH_SUFFIXES bin NO_DEFAULT_PATH)
find_library(CSPLADE_CUDA_CUBLAS cublas HINTS ${places} PATH_SUFFIXES lib64 lib NO_DEFAULT_PATH)
if(CSPLADE_CUDA_CUBLAS)
  get_filename_component(CSPLADE_CUDA_LIBS ${CSPLADE_CUDA_CUBLAS} DIRECTORY)
endif()

if(CSPLADE_CUDA_INCLUDE)
  enable_language(CXX)
  set(CMAKE_CXX_STANDARD 17)
  set(CMAKE_CXX_STANDARD_REQUIRED ON)
  set(CMAKE_CXX_EXTENSIONS OFF)
  set(CMAKE_CXX_FLAGS_RELEASE "-O2 -g1")
  message(STATUS "CUDA headers: ${CSPLADE_CUDA_INCLUDE}, compiler: ${CSPLADE_NVCC}")
else()
  message(STATUS "No CUDA headers: neither the CUDA plugin nor its tests are built "
                 "(scripts/cuda_toolkit.sh makes a toolkit from PyPI wheels)")
endif()
