# `cmake --install` and Debian packages (cpack -G DEB): graft, graft-scheduler, graft-fileservice and
# graft-worker. The worker's package holds no libtorch: it is found in /usr/lib/graft/deps, where
# /usr/lib/graft/deps.sh (deploy/deps.sh) unpacks it.
include(GNUInstallDirs)

# graft_install(target package): the program of a package.
function(graft_install target package)
  if(NOT TARGET ${target})
    return()
  endif()
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "/usr/lib/graft/deps/torch/lib:/usr/lib/graft/deps/cuda/lib")
  install(TARGETS ${target} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT ${package})
endfunction()

graft_install(graft graft)
graft_install(graft-scheduler graft-scheduler)
graft_install(graft-fileservice graft-fileservice)
graft_install(graft-worker graft-worker)
graft_install(graft-trainer graft-worker)
graft_install(graft-trainer-rank graft-worker)
graft_install(graft-validate graft-worker)
graft_install(graft-fake-trainer graft-worker)  # graft up --fake-trainer
install(FILES ${CMAKE_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT graft)
install(PROGRAMS ${CMAKE_SOURCE_DIR}/deploy/deps.sh ${CMAKE_SOURCE_DIR}/deploy/fetch.sh
  DESTINATION lib/graft/deploy COMPONENT graft-worker)
install(FILES ${CMAKE_SOURCE_DIR}/deploy/packages.txt DESTINATION lib/graft/deploy COMPONENT graft-worker)

# The C++ client library, for find_package(Graft) and pkg-config: `cmake --install build/release
# --component graft-dev --prefix ...`.
if(TARGET graft_client)
  set(_client graft_client graft_context graft_fileservice_transfer graft_fileservice_http graft_fileservice_wire
    graft_fileservice_chunking graft_rpc graft_api_proto graft_googleapis graft_base)
  set(_include ${CMAKE_INSTALL_INCLUDEDIR}/graft)
  install(TARGETS ${_client} EXPORT GraftTargets COMPONENT graft-dev
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${_include})
  install(EXPORT GraftTargets NAMESPACE Graft:: COMPONENT graft-dev
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Graft)
  foreach(folder IN ITEMS client/graft fileservice/transfer)
    install(DIRECTORY ${CMAKE_SOURCE_DIR}/${folder}/ DESTINATION ${_include}/${folder} COMPONENT graft-dev
      FILES_MATCHING PATTERN "*.h")
  endforeach()
  foreach(folder IN ITEMS base rpc)
    install(DIRECTORY ${CMAKE_SOURCE_DIR}/proto/${folder} DESTINATION ${_include} COMPONENT graft-dev
      FILES_MATCHING PATTERN "*.h" PATTERN testing EXCLUDE)
  endforeach()
  foreach(folder IN ITEMS graft/v1 google)
    install(DIRECTORY ${GRAFT_GEN_DIR}/${folder}/ DESTINATION ${_include}/${folder} COMPONENT graft-dev
      FILES_MATCHING PATTERN "*.pb.h")
  endforeach()
  include(CMakePackageConfigHelpers)
  configure_file(${CMAKE_SOURCE_DIR}/deploy/clients/GraftConfig.cmake.in ${CMAKE_BINARY_DIR}/GraftConfig.cmake @ONLY)
  write_basic_package_version_file(${CMAKE_BINARY_DIR}/GraftConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${CMAKE_BINARY_DIR}/GraftConfig.cmake ${CMAKE_BINARY_DIR}/GraftConfigVersion.cmake
    DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Graft COMPONENT graft-dev)
  list(TRANSFORM _client REPLACE "(.+)" "-l\\1" OUTPUT_VARIABLE _flags)
  list(JOIN _flags " " GRAFT_PC_LIBS)
  file(RELATIVE_PATH GRAFT_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  configure_file(${CMAKE_SOURCE_DIR}/deploy/clients/graft.pc.in ${CMAKE_BINARY_DIR}/graft.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/graft.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT graft-dev)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME graft)
set(CPACK_PACKAGE_VENDOR "Graft")
set(CPACK_PACKAGE_CONTACT "Graft developers <dev@graft.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Fine-tunes open language models on your own machines")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_COMPONENTS_ALL graft)
set(CPACK_DEBIAN_GRAFT_PACKAGE_NAME graft)
set(CPACK_DEBIAN_GRAFT_PACKAGE_DEPENDS libcurl4)  # loaded by name

foreach(daemon IN ITEMS scheduler fileservice worker)
  if(NOT TARGET graft-${daemon})
    continue()
  endif()
  set(USER graft-${daemon})
  configure_file(${CMAKE_SOURCE_DIR}/deploy/debian/postinst.in ${CMAKE_BINARY_DIR}/debian/${daemon}/postinst
    @ONLY FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
  install(FILES ${CMAKE_SOURCE_DIR}/deploy/systemd/graft-${daemon}.service
    DESTINATION lib/systemd/system COMPONENT graft-${daemon})
  file(GLOB _configs ${CMAKE_SOURCE_DIR}/deploy/configs/${daemon}.*)
  install(FILES ${_configs} DESTINATION /etc/graft COMPONENT graft-${daemon})
  # An upgrade asks before it writes over what an administrator has changed.
  list(TRANSFORM _configs REPLACE ".*/(.+)" "/etc/graft/\\1" OUTPUT_VARIABLE _conffiles)
  list(JOIN _conffiles "\n" _conffiles)
  file(WRITE ${CMAKE_BINARY_DIR}/debian/${daemon}/conffiles "${_conffiles}\n")
  list(APPEND CPACK_COMPONENTS_ALL graft-${daemon})
  string(TOUPPER "GRAFT-${daemon}" _upper)
  set(CPACK_DEBIAN_${_upper}_PACKAGE_NAME graft-${daemon})
  set(CPACK_DEBIAN_${_upper}_PACKAGE_CONTROL_EXTRA
    ${CMAKE_BINARY_DIR}/debian/${daemon}/postinst ${CMAKE_BINARY_DIR}/debian/${daemon}/conffiles)
  set(CPACK_DEBIAN_${_upper}_PACKAGE_DEPENDS adduser)
endforeach()
# The trainer's libtorch is no Debian package: looked up there, and left out of what is depended on.
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${GRAFT_DEPS_DIR}/torch/lib ${GRAFT_DEPS_DIR}/cuda/lib)
include(CPack)
