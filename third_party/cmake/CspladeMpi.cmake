# Finds Open MPI for the plugin libcsplade_mpi.so. Sets
#   CSPLADE_MPI        whether there is one; without it ranks meet over TCP only
#   csplade_openmpi    the target to link with
# Another MPI is not taken: its launcher sets other variables (comm/launch.h) and its library is not
# exchangeable with Open MPI's.
find_path(CSPLADE_MPI_INCLUDE mpi.h
          HINTS $ENV{MPI_HOME} PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openmpi
          PATH_SUFFIXES include NO_CMAKE_SYSTEM_PATH NO_SYSTEM_ENVIRONMENT_PATH)
find_library(CSPLADE_MPI_LIBRARY mpi
             HINTS $ENV{MPI_HOME} PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openmpi
             PATH_SUFFIXES lib NO_CMAKE_SYSTEM_PATH NO_SYSTEM_ENVIRONMENT_PATH)
if(NOT CSPLADE_MPI_INCLUDE OR NOT CSPLADE_MPI_LIBRARY)
  # Elsewhere than in Debian: where mpicc stands.
  find_program(csplade_mpicc mpicc)
  if(csplade_mpicc)
    get_filename_component(folder ${csplade_mpicc} DIRECTORY)
    find_path(CSPLADE_MPI_INCLUDE mpi.h HINTS ${folder}/../include)
    find_library(CSPLADE_MPI_LIBRARY mpi HINTS ${folder}/../lib ${folder}/../lib64)
  endif()
endif()

set(CSPLADE_MPI OFF)
if(CSPLADE_MPI_INCLUDE AND CSPLADE_MPI_LIBRARY)
  file(STRINGS ${CSPLADE_MPI_INCLUDE}/mpi.h is_open_mpi REGEX "define OPEN_MPI ")
  if(is_open_mpi)
    set(CSPLADE_MPI ON)
  endif()
endif()
if(CSPLADE_MPI)
  add_library(csplade_openmpi INTERFACE)
  target_include_directories(csplade_openmpi SYSTEM INTERFACE ${CSPLADE_MPI_INCLUDE})
  target_link_libraries(csplade_openmpi INTERFACE ${CSPLADE_MPI_LIBRARY})
  message(STATUS "Open MPI: ${CSPLADE_MPI_LIBRARY}")
else()
  message(STATUS "No Open MPI: the plugin for mpirun and srun is not built (Debian's libopenmpi-dev)")
endif()
