# Finds what csplade is linked with; third_party/README.md lists names, versions and licences.
#
# Static archives are taken where Debian ships them, so that a built program can be carried to
# another machine; where an archive is missing the shared library serves.
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)

# csplade_find(<target> <header> <archive> <shared> [dirs...]): an imported interface target.
function(csplade_find target header archive shared)
  find_path(${target}_INCLUDE ${header} PATH_SUFFIXES ${ARGN})
  find_library(${target}_LIBRARY NAMES ${archive} ${shared} PATH_SUFFIXES ${ARGN})
  if(NOT ${target}_INCLUDE OR NOT ${target}_LIBRARY)
    message(FATAL_ERROR "csplade needs ${header} and lib${shared}: scripts/test.sh and "
                        "scripts/demo.sh install the Debian packages, third_party/README.md lists them")
  endif()
  add_library(${target} INTERFACE)
  target_include_directories(${target} SYSTEM INTERFACE ${${target}_INCLUDE})
  target_link_libraries(${target} INTERFACE ${${target}_LIBRARY})
endfunction()

csplade_find(csplade_jansson  jansson.h   libjansson.a  jansson)
csplade_find(csplade_yaml     yaml.h      libyaml.a     yaml)
csplade_find(csplade_pcre2    pcre2.h     libpcre2-8.a  pcre2-8)
csplade_find(csplade_utf8proc utf8proc.h  libutf8proc.a utf8proc)
csplade_find(csplade_xxhash   xxhash.h    libxxhash.a   xxhash)
csplade_find(csplade_zlib     zlib.h      libz.a        z)
csplade_find(csplade_stemmer  libstemmer.h libstemmer.a stemmer)

# HDF5 serial, with the compression libraries its archive refers to.
csplade_find(csplade_hdf5 hdf5.h libhdf5_serial.a hdf5_serial hdf5/serial)
find_library(csplade_sz NAMES libsz.a sz REQUIRED)
find_library(csplade_aec NAMES libaec.a aec REQUIRED)
target_link_libraries(csplade_hdf5 INTERFACE ${csplade_sz} ${csplade_aec} csplade_zlib
                      ${CMAKE_DL_LIBS} m Threads::Threads)

# OpenBLAS built for callers that use OpenMP: inside a region it works in the calling thread, and
# src/host/cpu/gemm.c keeps it so outside. csplade's regions are the one owner of threads, and which
# thread adds which numbers must not depend on a library's mood. Debian's build without threads
# (openblas-serial) must not be used: it hands one work buffer to two callers (wrong products).
find_path(csplade_openblas_INCLUDE cblas.h PATH_SUFFIXES x86_64-linux-gnu/openblas-openmp
          aarch64-linux-gnu/openblas-openmp openblas-openmp)
find_library(csplade_openblas_LIBRARY NAMES libopenblas.a openblas
             PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp NO_DEFAULT_PATH)
if(NOT csplade_openblas_INCLUDE OR NOT csplade_openblas_LIBRARY)
  message(FATAL_ERROR "csplade needs OpenBLAS for OpenMP: Debian's libopenblas-openmp-dev")
endif()
add_library(csplade_blas INTERFACE)
target_include_directories(csplade_blas SYSTEM INTERFACE ${csplade_openblas_INCLUDE})
target_link_libraries(csplade_blas INTERFACE ${csplade_openblas_LIBRARY} OpenMP::OpenMP_C m)
