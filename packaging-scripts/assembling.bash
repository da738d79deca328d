# Shared code of the `assemble` scripts: turns packages, jobs and the license into a source release tarball in the layout of the
# BOSH CLI. Sourced, not run. A script sets `here` to its directory, defines
#
#   about             description of the script, for --help
#   environment       the variables that it reads in addition to SOURCE_DATE_EPOCH, for --help
#   get_sources       prepares the sources, once, before the first package
#   add_sources VIEW  adds sources of the package that read_spec has read to the directory VIEW, next to those of src/
#
# and calls `assemble "$@"`.
set -euo pipefail
shopt -s nullglob globstar inherit_errexit

usage() {
  cat <<END
usage: assemble OUTPUT.tgz

$about The same inputs give the same bytes.

  -h, --help          this text

Environment:
$environment
  SOURCE_DATE_EPOCH   the time of every entry, in seconds since 1970 (default: 1577836800, the start of 2020)
END
}

die() {
  echo "assemble: $*" >&2
  exit 1
}

# ---------------------------------------------------------------- small parts

# Prints the SHA-256 of a file, or of standard input.
sha256() {
  local sum
  sum=$(sha256sum -- "${1:--}")
  echo "${sum%% *}"
}

# Prints a string as YAML. A number in quotes stays a string: 1.10 would become 1.1. A version of three numbers is a string anyway.
scalar() {
  if [[ $1 =~ ^[0-9]+\.[0-9]+\.[0-9]+ || $1 =~ ^[a-z] || ($1 =~ ^[0-9a-f]+$ && $1 =~ [abcdf]) ]]; then
    echo "$1"
  else
    echo "\"$1\""
  fi
}

# Packs a directory the way the CLI does (`tar -C DIR -c .`), but with fixed order, times and owners. $3: gzip or plain.
pack_directory() {
  local directory=$1 output=$2 form=$3
  tar "${tar_options[@]}" --sort=name -C "$directory" -cf "$output.tar" .
  if [[ $form == plain ]]; then
    mv "$output.tar" "$output"
  else
    gzip -n <"$output.tar" >"$output"
    rm "$output.tar"
  fi
}

# Prints the fingerprint of a directory: of the names, the kind (executable or not) and the contents of its files, and of the further
# arguments. As in the CLI's fingerprints, times and owners are ignored.
fingerprint() {
  local directory=$1 name
  shift
  {
    printf 'v1\n'
    printf '%s\n' "$@"
    while IFS= read -r -d '' name; do
      if [[ -x $directory/$name ]]; then printf 'x '; else printf -- '- '; fi
      printf '%s\n' "$name"
    done < <(list_files "$directory")
    (cd "$directory" && list_files . | xargs -0 sha256sum --)
  } | sha256
}

list_files() {
  (cd "$1" && find . -type f -print0 | sort -z)
}

# Sets name, no_compression, dependencies, files and sources from a package's spec. The format is the YAML of any BOSH release, limited
# to what these files contain, so that no YAML parser is needed. An unknown line is an error.
read_spec() {
  local spec=$1 line section=
  name='' no_compression=false dependencies=() files=() sources=()
  while IFS= read -r line || [[ -n $line ]]; do
    line=${line%%#*}
    line=${line%"${line##*[![:space:]]}"}
    case $line in
      '' | ---) ;;
      'name: '*) name=${line#name: } ;;
      'no_compression: true') no_compression=true ;;
      dependencies: | files: | sources:) section=${line%:} ;;
      '- '*)
        case $section in
          dependencies) dependencies+=("${line#- }") ;;
          files) files+=("${line#- }") ;;
          *) die "$spec: unexpected: $line" ;;
        esac
        ;;
      '  '*': '*)
        [[ $section == sources ]] || die "$spec: unexpected: $line"
        sources+=("${line#  }")
        ;;
      *) die "$spec: unexpected: $line" ;;
    esac
  done <"$spec"
}

# Creates the directory to which the patterns in `files:` are relative: src/ of this release, and the sources of add_sources.
lay_out_view() {
  local view=$1 directory
  mkdir "$view"
  for directory in "$here"/src/*; do ln -s "$directory" "$view/"; done
  add_sources "$view"
}

# ---------------------------------------------------------------- the parts of the release

# Each of these writes a blob into the stage and appends its entry to the manifest.

add_package() {
  local source=$1 view directory pattern print form=gzip dependency match matches found
  read_spec "$source/spec"
  [[ $name == "$(basename "$source")" ]] || die "$source/spec: the name differs from the directory"
  view=$stage/view/$name directory=$stage/source/$name
  lay_out_view "$view"
  mkdir "$directory"

  found=()
  for pattern in "${files[@]}"; do
    # Unquoted on purpose: expands the patterns.
    # shellcheck disable=SC2086
    mapfile -t matches < <(cd "$view" && for match in $pattern; do echo "$match"; done)
    ((${#matches[@]} > 0)) || die "package $name: nothing matches $pattern"
    for match in "${matches[@]}"; do
      [[ -f $view/$match ]] || die "package $name: $match is not a file"
    done
    found+=("${matches[@]}")
  done
  (cd "$view" && cp --parents --dereference -- "${found[@]}" "$directory/")
  [[ ! -e $directory/packaging ]] || die "package $name: a source file is called packaging"
  cp "$source/packaging" "$directory/"
  chmod -R u=rwX,go=rX "$directory"
  # Never executable in a release: the agent gives the script to bash.
  chmod 0644 "$directory/packaging"

  for dependency in "${dependencies[@]}"; do
    [[ -f $here/packages/$dependency/spec ]] || die "package $name depends on $dependency, which does not exist"
  done
  [[ $no_compression == false ]] || form=plain
  print=$(fingerprint "$directory" "$name" "$form" "${dependencies[@]}")
  pack_directory "$directory" "$stage/release/packages/$name.tgz" "$form"

  {
    entry "$name" "$print" "packages/$name.tgz"
    if ((${#dependencies[@]} == 0)); then
      echo '  dependencies: []'
    else
      echo '  dependencies:'
      printf '  - %s\n' "${dependencies[@]}"
    fi
  } >>"$stage/packages.yml"
}

add_job() {
  local source=$1 name directory print package
  name=$(basename "$source")
  directory=$stage/source/job-$name
  mkdir "$directory"
  cp "$source/spec" "$directory/job.MF"
  cp "$source/monit" "$directory/monit"
  cp -R "$source/templates" "$directory/templates"
  chmod -R u=rwX,go=rX "$directory"
  print=$(fingerprint "$directory" "$name")
  pack_directory "$directory" "$stage/release/jobs/$name.tgz" gzip

  {
    entry "$name" "$print" "jobs/$name.tgz"
    echo '  packages:'
    # The list under `packages:`, up to the next key.
    sed -n '/^packages:/,/^[a-z]*:$/ s/^- \(.*\)/\1/p' "$source/spec" | while read -r package; do
      [[ -f $here/packages/$package/spec ]] || die "job $name needs the package $package, which does not exist"
      echo "  - $package"
    done
  } >>"$stage/jobs.yml"
}

add_license() {
  local directory=$stage/source/license print
  mkdir "$directory"
  cp "$here/LICENSE" "$here/NOTICE" "$directory/"
  cp "$here/LICENSE" "$here/NOTICE" "$stage/release/"
  chmod -R u=rwX,go=rX "$directory"
  print=$(fingerprint "$directory" license)
  pack_directory "$directory" "$stage/release/license.tgz" gzip
  # A map and not a list, and without a name.
  entry license "$print" license.tgz | sed -e 1d >"$stage/license.yml"
}

# Prints the fields that packages, jobs and the license have in common.
entry() {
  printf -- '- name: %s\n  version: %s\n  fingerprint: %s\n  sha1: sha256:%s\n' \
    "$1" "$(scalar "$2")" "$(scalar "$2")" "$(sha256 "$stage/release/$3")"
}

write_manifest() {
  local key value name='' version=''
  while IFS=': ' read -r key value; do
    case $key in
      name) name=$value ;;
      version) version=$value ;;
    esac
  done <"$here/release.yml"
  [[ -n $name && -n $version ]] || die "release.yml needs a name and a version"
  {
    printf 'name: %s\nversion: %s\n' "$(scalar "$name")" "$(scalar "$version")"
    # As the CLI writes it outside of a git repository. The commit would change the bytes without changing the release.
    printf 'commit_hash: non-git\nuncommitted_changes: false\n'
    echo 'jobs:'
    cat "$stage/jobs.yml"
    echo 'packages:'
    cat "$stage/packages.yml"
    echo 'license:'
    cat "$stage/license.yml"
    echo 'no_compression: false'
  } >"$stage/release/release.MF"
}

# The order and the modes of the CLI: the manifest first and without "./", each directory before its files.
pack_release() {
  local entries
  cd "$stage/release"
  chmod 0755 jobs packages
  chmod 0600 jobs/*.tgz packages/*.tgz license.tgz
  chmod 0644 release.MF LICENSE NOTICE
  entries=(release.MF jobs jobs/*.tgz packages packages/*.tgz license.tgz LICENSE NOTICE)
  tar "${tar_options[@]}" --no-recursion -cf - "${entries[@]}" | gzip -n >"$stage/release.tgz"
  cd "$OLDPWD"
}

# ---------------------------------------------------------------- main

# Fails unless all these tools are installed.
need() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || die "$tool is missing"
  done
}

assemble() {
  local output epoch package job
  case ${1:-} in
    -h | --help)
      usage
      exit 0
      ;;
    -*) die "unknown option $1 (see assemble --help)" ;;
  esac
  (($# == 1)) || {
    usage >&2
    exit 1
  }
  output=$1
  [[ -d $(dirname "$output") ]] || die "no such directory: $(dirname "$output")"

  # Sorting, modes and compression must not depend on the caller.
  export LC_ALL=C
  unset GZIP TAR_OPTIONS
  umask 022

  epoch=${SOURCE_DATE_EPOCH:-1577836800}
  [[ $epoch =~ ^[0-9]+$ ]] || die "SOURCE_DATE_EPOCH is not a number: $epoch"
  tar_options=(--format=gnu --mtime="@$epoch" --owner=root:0 --group=root:0)

  need tar gzip sha256sum
  [[ $(tar --version) == *'GNU tar'* ]] || die "`tar` is not GNU tar, which is required"

  stage=$(mktemp -d)
  trap 'rm -rf "$stage"' EXIT
  mkdir -p "$stage"/{view,source,release/jobs,release/packages}

  get_sources
  for package in "$here"/packages/*; do add_package "$package"; done
  for job in "$here"/jobs/*; do add_job "$job"; done
  add_license
  write_manifest
  pack_release

  # Renamed when it is complete, so that an interrupted run leaves no partial release.
  cp "$stage/release.tgz" "$output.partial"
  mv "$output.partial" "$output"
  echo "$output: $(stat -c %s "$output") bytes, sha256 $(sha256 "$output")"
}
