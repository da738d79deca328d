#!/usr/bin/env ruby
# frozen_string_literal: true

# Checks a compiled BOSH release as its consumers read it (the Director's upload, the CLI, the agent that installs a blob), and compares
# it with its source release. Uses only Ruby's standard library and GNU tar: it shares no code with the agent.
#
#   check_release.rb OUTPUT.tgz --source SOURCE.tgz [--stemcell OS/VERSION]
#
# Prints one line for each finding; the exit code is 1 if there is one.

require 'digest'
require 'json'
require 'open3'
require 'optparse'
require 'set'
require 'stringio'
require 'tempfile'
require 'tmpdir'
require_relative 'compressed'
require_relative 'manifest'
require_relative 'tar_reader'

# A release tarball opened for reading: its entries by their plain name.
class Release
  attr_reader :path, :tar, :compression, :loaded, :written

  def initialize(path)
    @path = path
    File.open(path, 'rb') { |file| open_tar(file) }
    bytes = content('release.MF') or raise Manifest::Unreadable, 'no release.MF at the root'
    text = bytes.force_encoding('UTF-8')
    @loaded = Manifest.loaded(text)
    @written = Manifest.written(text)
    raise Manifest::Unreadable, 'release.MF is not a map' unless @loaded.is_a?(Hash)
  end

  def entries = @tar.entries

  # `./jobs//web.tgz` and `jobs/web.tgz` are the same file for all readers.
  def self.plain(name) = name.split('/').reject { |part| part.empty? || part == '.' }.join('/')

  def files = @files ||= entries.select(&:file?).to_h { |entry| [Release.plain(entry.name), entry] }

  def content(name)
    entry = files[name]
    entry && @tar.content(entry)
  end

  private

  def open_tar(file)
    head = file.read(8) || ''.b
    file.rewind
    @compression = Compressed.kind(head)
    # In two steps: binmode returns the bare File, and the file is removed when its Tempfile is collected.
    @spool = Tempfile.new('release')
    @spool.binmode
    case @compression
    when :none then IO.copy_stream(file, @spool)
    when :gzip then Compressed.gunzip(file, @spool)
    else @spool.write(Compressed.unpacked(file.read))
    end
    @tar = TarReader.new(@spool)
  end
end

# All checks of one compiled release against its source.
class Check
  IDENTIFIER = /\A[-0-9A-Za-z_+.]+\z/
  SEGMENT = /[0-9A-Za-z_]+(?:\.[0-9A-Za-z_]+)*/
  DASHED = /[-0-9A-Za-z_]+(?:\.[-0-9A-Za-z_]+)*/
  SEMI_SEMANTIC = /\A#{SEGMENT}(?:-#{DASHED})?(?:\+#{DASHED})?\z/
  HEX = { 'sha1' => [40, Digest::SHA1], 'sha256' => [64, Digest::SHA256], 'sha512' => [128, Digest::SHA512] }.freeze

  attr_reader :findings

  def initialize(output, source, stemcell)
    @output = output
    @source = source
    @stemcell = stemcell
    @findings = []
  end

  def run
    outer_tar
    manifest_types
    identifiers
    dependencies
    stemcells
    file_name
    blobs
    jobs
    against_source
    digests
    self
  end

  def packages = list(@output, 'compiled_packages')

  def job_list = list(@output, 'jobs')

  private

  def report(text) = @findings << text

  def list(release, key)
    value = release.loaded[key]
    value.is_a?(Array) ? value.grep(Hash) : []
  end

  # The text in the manifest, before Psych converts it: this is what the source means.
  def texts(release, *keys) = keys.flat_map { |key| release.written[key].is_a?(Array) ? release.written[key].grep(Hash) : [] }

  def source_packages = texts(@source, 'packages', 'compiled_packages')

  # --- the outer tarball

  def outer_tar
    Dir.mktmpdir do |dir|
      out, status = Open3.capture2e('tar', '-C', dir, '-xf', @output.path)
      report("GNU tar cannot extract it: #{out.lines.last}") unless status.success?
      report("GNU tar says: #{out.lines.first.chomp}") if status.success? && !out.empty?
      report('after extraction release.MF is not a file at the root') unless File.file?(File.join(dir, 'release.MF'))
    end
    wanted = @output.loaded['no_compression'] == true ? :none : :gzip
    report("compressed as #{@output.compression}, expected #{wanted}") if @output.compression != wanted
    @output.entries.each { |entry| outer_entry(entry) }
    once(@output.entries, 'the release')
  end

  def outer_entry(entry)
    name = entry.name
    canonical = "./#{Release.plain(name)}#{'/' if entry.directory? && Release.plain(name) != ''}"
    report("#{name.inspect}: expected the name #{canonical.inspect}") if name != canonical
    report("#{name}: leaves the archive") if name.start_with?('/') || name.split('/').include?('..')
    report("#{name}: mtime #{entry.mtime}, expected 0") if entry.mtime != 0
    report(format('%<name>s: mode %<mode>04o, expected 0644', name: name, mode: entry.mode)) if entry.file? && entry.mode != 0o644
    return unless entry.directory? && (entry.mode & 0o700 != 0o700)

    report(format('%<name>s: mode %<mode>04o: its owner cannot use it', name: name, mode: entry.mode))
  end

  def once(entries, where)
    entries.map { |entry| Release.plain(entry.name) }.tally.each do |name, count|
      report("#{where}: #{name.empty? ? './' : name} stands in it #{count} times") if count > 1
    end
  end

  # --- the manifest alone

  # Psych must return a String for all of these: the Director stores the result of to_s for everything else.
  def manifest_types
    top = @output.loaded
    %w[name version commit_hash].each { |key| string(top, key, 'release.MF') }
    report('uncommitted_changes is neither true nor false') unless [true, false, nil].include?(top['uncommitted_changes'])
    report('no_compression is neither true nor false') unless [true, false, nil].include?(top['no_compression'])
    report('the key packages is still there') if top.key?('packages')
    sections(top)
    packages.each do |package|
      %w[name version fingerprint sha1 stemcell].each { |key| string(package, key, "package #{package['name']}") }
      strings(package, 'dependencies', "package #{package['name']}")
    end
    job_list.each do |job|
      %w[name version fingerprint sha1].each { |key| string(job, key, "job #{job['name']}") }
      strings(job, 'packages', "job #{job['name']}")
    end
    license = top['license']
    %w[version fingerprint sha1].each { |key| string(license, key, 'license') } if license.is_a?(Hash)
  end

  def sections(top)
    # If the key is absent or null, the Director treats it as a source release, which is right only if there is nothing to compile.
    if top['compiled_packages'].nil?
      report('compiled_packages is absent or null: the Director takes this for a source release') if top.key?('compiled_packages') || source_packages.any?
    elsif !top['compiled_packages'].is_a?(Array)
      report('compiled_packages is not a list')
    end
    %w[compiled_packages jobs].each do |key|
      report("#{key} has an item that is not a map") if top[key].is_a?(Array) && top[key].any? { |item| !item.is_a?(Hash) }
    end
    report('jobs is not a list') unless top['jobs'].nil? || top['jobs'].is_a?(Array)
    report('license is not a map') unless top['license'].nil? || top['license'].is_a?(Hash)
  end

  def string(map, key, where)
    value = map[key]
    report("#{where}: Psych reads #{key} as #{value.class} (#{value.inspect}), not as a string") unless value.nil? || value.is_a?(String)
  end

  def strings(map, key, where)
    value = map[key]
    return if value.nil?
    return report("#{where}: #{key} is not a list") unless value.is_a?(Array)

    value.each { |item| report("#{where}: Psych reads #{item.inspect} in #{key} as #{item.class}, not as a string") unless item.is_a?(String) }
  end

  def identifiers
    %w[name version].each { |key| identifier(@output.loaded[key], "release #{key}") }
    { 'package' => packages, 'job' => job_list }.each do |kind, items|
      items.each do |item|
        %w[name version].each { |key| identifier(item[key], "#{kind} #{item['name']}: #{key}") }
      end
      items.map { |item| item['name'] }.tally.each { |name, count| report("#{kind} #{name} is listed #{count} times") if count > 1 }
    end
    version = @output.loaded['version'].to_s.sub(/\.(\d+)-dev\z/, '+dev.\1')
    report("release version #{version.inspect} is not semi-semantic") unless version.match?(SEMI_SEMANTIC)
  end

  def identifier(value, where)
    text = value.to_s
    return if text.match?(IDENTIFIER) && !%w[. ..].include?(text) && !text.start_with?('-') && text.bytesize <= 200

    report("#{where}: #{value.inspect} is not a valid name or version")
  end

  # --- dependencies

  def dependencies
    graph = packages.to_h { |package| [package['name'], Array(package['dependencies'])] }
    graph.each do |name, wanted|
      (wanted - graph.keys).each { |other| report("package #{name}: depends on #{other.inspect}, which is not in the release") }
    end
    cycle = graph.keys.lazy.filter_map { |name| cycle_from(name, graph, []) }.first
    return report("dependency cycle: #{cycle.join(' -> ')}") if cycle

    job_list.each do |job|
      (Array(job['packages']) - graph.keys).each { |name| report("job #{job['name']}: wants the package #{name.inspect}, which is not in the release") }
    end
    dependency_keys
  end

  def cycle_from(name, graph, path)
    return path.drop_while { |step| step != name } + [name] if path.include?(name)
    return nil if (@acyclic ||= Set.new).include?(name)

    found = graph.fetch(name, []).lazy.filter_map { |other| cycle_from(other, graph, path + [name]) }.first
    @acyclic << name unless found
    found
  end

  # The values that the Director compares between an uploaded source release and this one.
  def dependency_keys
    ours = packages.to_h { |package| [package['name'], package] }
    theirs = source_packages.to_h { |package| [package['name'], package] }
    (ours.keys & theirs.keys).each do |name|
      here = dependency_key(name, ours, [])
      there = dependency_key(name, theirs, [])
      report("package #{name}: dependency key #{here}, in the source #{there}") if here != there
    end
  end

  def dependency_key(name, all, path)
    wanted = Array(all.dig(name, 'dependencies')).map(&:to_s).sort
    return '...' if path.include?(name)

    JSON.generate(wanted.map { |other| [other, all.dig(other, 'version').to_s, dependency_key(other, all, path + [name])] })
  end

  # --- stemcell

  def stemcells
    slugs = packages.map { |package| package['stemcell'] }.uniq
    slugs.each { |slug| slug_of(slug) }
    report("packages of several stemcells: #{slugs.inspect}") if slugs.size > 1
  end

  def slug_of(slug)
    os, version = slug.to_s.split('/', 2)
    return report("stemcell #{slug.inspect} is not OS/VERSION") if os.to_s.empty? || version.to_s.empty?

    report("stemcell #{slug.inspect}: stray characters") unless slug.to_s.match?(%r{\A[-0-9A-Za-z_+.]+/[-0-9A-Za-z_+.]+\z})
    report("stemcell #{slug.inspect}, expected #{@stemcell.inspect}") if @stemcell && slug != @stemcell
  end

  # Pipelines find the file by this name.
  def file_name
    slug = packages.map { |package| package['stemcell'] }.first || @stemcell or return
    wanted = "#{@source.written['name']}-#{@source.written['version']}-#{slug.to_s.sub('/', '-')}.tgz"
    report("the file is called #{File.basename(@output.path)}, expected #{wanted}") if File.basename(@output.path) != wanted
  end

  # --- compiled blobs

  def blobs
    listed = packages.map { |package| "compiled_packages/#{package['name']}.tgz" }
    present = @output.files.keys.grep(%r{\Acompiled_packages/})
    (listed - present).each { |name| report("#{name} is missing") }
    (present - listed).each { |name| report("#{name} is not in the manifest") }
    (@output.files.keys.grep(%r{\Apackages/})).each { |name| report("#{name}: a source package in a compiled release") }
    (listed & present).each { |name| blob(name) }
  end

  def blob(name)
    bytes = @output.content(name)
    gnu_tar_lists(name, bytes)
    # A package that was already compiled is copied; the agent did not pack it.
    if @source.files[name]
      report("#{name} is not the file of the source") if bytes != @source.content(name)
      return
    end
    # The Go agent writes a plain tar for a plain tar; everything else becomes gzip.
    source = @source.content(name.sub('compiled_', ''))
    wanted = source && Compressed.kind(source) == :none ? :none : :gzip
    report("#{name}: compressed as #{Compressed.kind(bytes)}, expected #{wanted}") if Compressed.kind(bytes) != wanted
    blob_entries(name, TarReader.new(StringIO.new(Compressed.unpacked(bytes))).entries)
  rescue Compressed::Broken, TarReader::Malformed => e
    report("#{name}: #{e.message}")
  end

  def gnu_tar_lists(name, bytes)
    Tempfile.create('blob') do |file|
      file.binmode.write(bytes)
      file.close
      out, status = Open3.capture2e('tar', '-tf', file.path)
      report("#{name}: tar -tf fails: #{out.lines.last}") unless status.success?
    end
  end

  def blob_entries(name, entries)
    first = entries.first
    report("#{name}: the first entry is #{first&.name.inspect}, expected ./") unless first && first.name == './' && first.directory?
    once(entries, name)
    seen = Set.new(['.'])
    entries.drop(1).each do |entry|
      path = Release.plain(entry.name)
      report("#{name}: #{entry.name.inspect} does not begin with ./") unless entry.name.start_with?('./')
      report("#{name}: #{entry.name.inspect} leaves the package") if path.split('/').include?('..')
      report("#{name}: #{entry.name} comes before its directory") unless seen.include?(File.dirname(path))
      if entry.hard_link? && !seen.include?(Release.plain(entry.link))
        report("#{name}: #{entry.name} is a hard link to #{entry.link}, which is not before it")
      end
      seen << path
    end
    # Sorted by path or directory by directory: both are the same in every run.
    names = entries.map { |entry| entry.name.chomp('/') }
    by_directory = names.map { |path| path.split('/') }
    report("#{name}: the entries are not sorted") unless names == names.sort || by_directory == by_directory.sort
  end

  # --- jobs

  def jobs
    listed = job_list.map { |job| "jobs/#{job['name']}.tgz" }
    (listed - @output.files.keys).each { |name| report("#{name} is missing") }
    job_list.each do |job|
      bytes = @output.content("jobs/#{job['name']}.tgz") or next
      job_tarball(job['name'], bytes)
    rescue Compressed::Broken, TarReader::Malformed, Manifest::Unreadable => e
      report("job #{job['name']}: #{e.message}")
    end
  end

  def job_tarball(name, bytes)
    tar = TarReader.new(StringIO.new(Compressed.unpacked(bytes)))
    files = tar.entries.reject(&:directory?).to_h { |entry| [Release.plain(entry.name), entry] }
    return report("job #{name}: no job.MF") unless files['job.MF']

    spec = Manifest.loaded(tar.content(files['job.MF']).force_encoding('UTF-8'))
    return report("job #{name}: job.MF is not a map") unless spec.is_a?(Hash)

    report("job #{name}: job.MF says its name is #{spec['name'].inspect}") if spec['name'] != name
    report("job #{name}: no monit file") unless files['monit']
    templates = spec['templates']
    return report("job #{name}: templates is not a map") unless templates.nil? || templates.is_a?(Hash)

    (templates || {}).each_key { |template| report("job #{name}: the template #{template} is missing") unless files["templates/#{template}"] }
    (Array(spec['packages']) - packages.map { |package| package['name'] }).each do |package|
      report("job #{name}: job.MF wants the package #{package.inspect}, which is not in the release")
    end
  end

  # --- the source release

  def against_source
    release_keys
    same_items('package', packages, source_packages, %w[name version fingerprint], 'dependencies')
    same_items('job', job_list, texts(@source, 'jobs'), %w[name version fingerprint sha1], 'packages')
    report('the license differs from the source') if (@output.written['license'] || {}) != (@source.written['license'] || {})
    carried = @source.files.keys.select { |name| name.start_with?('jobs/') || name.match?(/\A(license\.tgz|LICENSE[^\/]*|NOTICE[^\/]*)\z/) }
    carried.each do |name|
      next report("#{name} of the source is missing") unless @output.files[name]

      report("#{name} is not the file of the source") if @output.content(name) != @source.content(name)
    end
    made = %r{\A(release\.MF|compiled_packages/.*)\z}
    (@output.files.keys - @source.files.keys).grep_v(made).each { |name| report("#{name} is not in the source") }
  end

  def release_keys
    %w[name version].each { |key| same('release', key, @output.loaded[key], @source.written[key]) }
    # A missing commit hash stays missing or becomes the empty string, as with the Go agent.
    # The Director stores a missing one as "unknown" and compares with that.
    wanted = @source.written['commit_hash'] || 'unknown'
    same('release', 'commit_hash', @output.loaded['commit_hash'].to_s, wanted.to_s)
    %w[uncommitted_changes no_compression].each do |key|
      same('release', key, @output.loaded[key] || false, @source.loaded[key] || false)
    end
  end

  def same_items(kind, ours, theirs, keys, listing)
    ours = ours.to_h { |item| [item['name'], item] }
    theirs = theirs.to_h { |item| [item['name'], item] }
    (theirs.keys - ours.keys).each { |name| report("#{kind} #{name} of the source is missing") }
    (ours.keys - theirs.keys).each { |name| report("#{kind} #{name} is not in the source") }
    (ours.keys & theirs.keys).each do |name|
      keys.each { |key| same("#{kind} #{name}", key, ours[name][key], theirs[name][key]) }
      same("#{kind} #{name}", listing, ours[name][listing] || [], theirs[name][listing] || [])
    end
  end

  def same(where, key, here, there)
    report("#{where}: #{key} is #{here.inspect}, in the source #{there.inspect}") if here != there
  end

  # --- digests, as `bosh sha2ify-release` verifies them and an agent does before it installs a blob

  def digests
    packages.each { |package| digest("compiled_packages/#{package['name']}.tgz", package['sha1']) }
    job_list.each { |job| digest("jobs/#{job['name']}.tgz", job['sha1']) }
    license = @output.loaded['license']
    digest('license.tgz', license['sha1']) if license.is_a?(Hash)
  end

  def digest(name, wanted)
    return report("#{name}: the manifest has no digest for it") if wanted.to_s.empty?

    bytes = @output.content(name) or return report("#{name}: in the manifest, but not in the tarball")
    wanted.to_s.split(';', -1).each do |part|
      algorithm, hex = part.include?(':') ? part.split(':', 2) : ['sha1', part]
      length, type = HEX[algorithm]
      next report("#{name}: unknown digest #{part.inspect}") unless length && hex.match?(/\A[0-9a-f]{#{length}}\z/)

      actual = type.hexdigest(bytes)
      report("#{name}: #{algorithm} is #{actual}, the manifest says #{hex}") if actual != hex
    end
  end
end

options = {}
parser = OptionParser.new do |option|
  option.banner = 'check_release.rb OUTPUT.tgz --source SOURCE.tgz [--stemcell OS/VERSION]'
  option.on('--source SOURCE') { |value| options[:source] = value }
  option.on('--stemcell SLUG') { |value| options[:stemcell] = value }
end
arguments = parser.parse(ARGV)
abort parser.banner unless arguments.size == 1 && options[:source]

begin
  source = Release.new(options[:source])
rescue SystemCallError, Compressed::Broken, TarReader::Malformed, Manifest::Unreadable => e
  abort "#{options[:source]}: the source cannot be read: #{e.message}"
end
begin
  check = Check.new(Release.new(arguments.first), source, options[:stemcell]).run
rescue SystemCallError, Compressed::Broken, TarReader::Malformed, Manifest::Unreadable => e
  abort "#{arguments.first}: #{e.message}"
end
check.findings.uniq.each { |finding| puts "#{arguments.first}: #{finding}" }
exit 1 unless check.findings.empty?
puts "ok: #{check.packages.size} packages, #{check.job_list.size} jobs"
