// `flexprefill backends`: what this program can run on, best first.

#include <iostream>

#include "flexprefill/flexprefill.h"
#include "tools/commands.h"
#include "tools/format.h"

namespace flexprefill::tools {

Action add_backends(CLI::App& app) {
  app.add_subcommand("backends", "List the backends, best first");
  return [] {
    for (const Backend* backend : backends())
      std::cout << backend->name() << "  " << backend->description() << "\n";
  };
}

}  // namespace flexprefill::tools
