#pragma once

/// Marks what a shared libflexprefill shows; everything else is compiled with hidden visibility.
#define FLEXPREFILL_EXPORT __attribute__((visibility("default")))
