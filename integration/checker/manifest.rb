# frozen_string_literal: true

require 'date'
require 'psych'

# release.MF as its two kinds of readers see it.
module Manifest
  class Unreadable < StandardError; end

  module_function

  # As the Director sees it: Psych turns an unquoted 1.10 into a Float and 1:20 into 4800. Classes that the Director's loader refuses
  # are accepted here, so that the finding can name the key.
  def loaded(text)
    Psych.safe_load(text, permitted_classes: [Symbol, Date, Time], aliases: true)
  rescue Psych::Exception => e
    raise Unreadable, e.message
  end

  # As written: every scalar is its text, a plain null is nil. This is what the source manifest means.
  def written(text)
    document = Psych.parse(text.gsub(/(?<=: )!binary(?= \|)/, '!!binary')) or return nil
    value(document.root, {}, [])
  rescue Psych::Exception => e
    raise Unreadable, e.message
  end

  def value(node, anchors, path)
    result = case node
             when Psych::Nodes::Mapping then mapping(node, anchors, path)
             when Psych::Nodes::Sequence then node.children.each_with_index.map { |child, i| value(child, anchors, path + [i]) }
             when Psych::Nodes::Alias then anchors.fetch(node.anchor)
             else scalar(node)
             end
    anchors[node.anchor] = result if node.anchor
    result
  end

  def mapping(node, anchors, path)
    node.children.each_slice(2).with_object({}) do |(key, child), map|
      name = key.value
      raise Unreadable, "the key #{(path + [name]).join('.')} stands twice" if map.key?(name)

      map[name] = value(child, anchors, path + [name])
    end
  end

  def scalar(node)
    return node.value.unpack1('m') if node.tag.to_s.end_with?('binary')
    return nil if !node.quoted && ['', '~', 'null', 'Null', 'NULL'].include?(node.value)

    node.value
  end
end
