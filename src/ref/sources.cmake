target_sources(flexprefill PRIVATE ref/reference.cc ref/score.cc ref/attend.cc)
