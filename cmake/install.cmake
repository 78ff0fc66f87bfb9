# The install tree: headers, library, CMake package, pkg-config file, command line and licence.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# Before 1.0.0 a minor release may break the ABI, so the soversion carries it.
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(soversion 0.${PROJECT_VERSION_MINOR})
else()
  set(soversion ${PROJECT_VERSION_MAJOR})
endif()
set_target_properties(flexprefill PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${soversion})

install(TARGETS flexprefill EXPORT flexprefillTargets)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/flexprefill TYPE INCLUDE)
install(FILES LICENSE NOTICE TYPE DOC)
if(FLEXPREFILL_TOOLS)
  install(TARGETS flexprefill_cli)
endif()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/flexprefill)
install(EXPORT flexprefillTargets NAMESPACE flexprefill:: DESTINATION ${package_dir})
configure_package_config_file(
  cmake/flexprefillConfig.cmake.in ${PROJECT_BINARY_DIR}/flexprefillConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
# A minor release may break callers before 1.0.0 only.
if(PROJECT_VERSION_MAJOR EQUAL 0)
  set(compatibility SameMinorVersion)
else()
  set(compatibility SameMajorVersion)
endif()
write_basic_package_version_file(${PROJECT_BINARY_DIR}/flexprefillConfigVersion.cmake
                                 COMPATIBILITY ${compatibility})
install(FILES ${PROJECT_BINARY_DIR}/flexprefillConfig.cmake
              ${PROJECT_BINARY_DIR}/flexprefillConfigVersion.cmake DESTINATION ${package_dir})

# Relative, so that the tree may be installed or moved anywhere.
file(RELATIVE_PATH prefix_from_pc /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
set(pc_cuda_libs "")
if(FLEXPREFILL_WITH_CUDA)
  set(pc_cuda_libs "-L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt -lpthread")
endif()
configure_file(cmake/flexprefill.pc.in flexprefill.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/flexprefill.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
